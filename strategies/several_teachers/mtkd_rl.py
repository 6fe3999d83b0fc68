"""MTKD-RL: an agent that shares weight among teachers, with two heuristics beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from strategies.base import Context, Cost, Needs, Setup, Weights
from strategies.lazy import torch
from strategies.parts.delayed_reward import Episode, UpdatedStudent
from strategies.parts.meta_network import feed_forward
from strategies.parts.several_teachers import (
    PaperScaled,
    PaperScaleSettings,
    centred,
    complement,
    context_cross_entropy,
    needs_teachers,
    scaled,
)
from strategies.parts.state import RunningStandardisation, detached
from strategies.registry import register
from strategies.space import FloatRange


class MTKDRLSettings(PaperScaleSettings):
    hidden_size: int = Field(128, ge=1)
    """Units of the agent's hidden layer."""
    agent_learning_rate: float = Field(0.1, gt=0.0)
    """Of the agent's SGD."""
    update_every: int = Field(10, ge=1)
    """Batches until the reward is collected, from the student as it is then, and the agent makes one step. The authors, on
    much longer trainings, take 1000."""
    heuristics: bool = True
    """Average the agent's weights with the two heuristic ones."""
    teacher_features: bool = True
    """The teachers' pooled vectors are part of the state."""

    search_space = {
        **PaperScaleSettings.search_space,
        "agent_learning_rate": FloatRange(low=1e-3, high=1.0, log=True),
    }


@register
class MTKDRL(PaperScaled[MTKDRLSettings]):
    """w = mean of the agent's softmax_k, (1 - softmax_k(ce_k)) / (teachers - 1), and softmax_k(KL(p_k || p_S)).

    The agent is one ReLU layer over all teachers' [vector; logits; cross-entropy; KL to the student]. It descends
    mean r[k, i] * -log w_agent[k, i], with r = -(student's CE + its KD with teacher k) after the episode, standardised over the
    episode and clamped to [0, 1]. The target is 1 for every teacher: a weight grows where its reward is above average. (This is
    the authors' rule; it is no REINFORCE.) The agent's last layer starts at 0: equal weights.
    """

    name = "mtkd_rl"
    family = "several teachers"
    summary = "an agent trained by reward shares the weight among teachers, with two heuristics"
    paper = "Yang et al., Multi-Teacher KD with Reinforcement Learning, AAAI 2025, arXiv 2502.18510, and the authors' code"
    sample_wise = True
    learned = True
    cost = Cost.REPLAY
    reconstruction = (
        "Without the feature loss, its weights, and its distance in state and reward. Ours: standardised states, a common "
        "standardisation of all teachers' rewards, and rewards from a replay of the episode's rows."
    )
    Settings = MTKDRLSettings

    def __init__(self, settings: MTKDRLSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        teachers = len(setup.teachers)
        inputs = teachers * (setup.classes + 2) + (sum(setup.teacher_hidden_sizes) if settings.teacher_features else 0)
        self.agent = feed_forward(inputs, (settings.hidden_size,), teachers, setup.seed, setup.device)
        self.optimizer = torch.optim.SGD(self.agent.parameters(), lr=settings.agent_learning_rate)
        self.state_moments = RunningStandardisation(inputs, setup.device)
        self.episode = Episode()
        self.updated_student = UpdatedStudent(setup)

    @classmethod
    def needs(cls, settings: MTKDRLSettings) -> Needs:
        return needs_teachers(replay=True, teacher_features=settings.teacher_features)

    def weights(self, context: Context) -> Weights:
        teachers = len(context.teacher_logits)
        if teachers == 1:  # nothing to share
            return scaled(torch.ones(1, 1, device=context.ids.device), self.settings)
        cross_entropy = context_cross_entropy(context)
        divergence = context.terms["kd_each"] / context.temperature**2
        states = self._states(context, cross_entropy, divergence)
        with torch.no_grad():
            weights = self.agent(states).softmax(-1).T
        self.episode.add(context.ids, states, weights)
        if self.settings.heuristics:
            weights = (weights + complement(cross_entropy.softmax(0)) + divergence.softmax(0)) / 3
        return scaled(weights, self.settings)

    def _states(self, context: Context, cross_entropy: torch.Tensor, divergence: torch.Tensor) -> torch.Tensor:
        """[batch, inputs]."""
        parts = [*centred(context.teacher_logits), cross_entropy.T, divergence.T]
        if self.settings.teacher_features:
            assert context.teacher_features is not None
            parts += context.teacher_features
        states = torch.cat(parts, -1)
        self.state_moments.update(states)
        return self.state_moments(states)

    def after_step(self, context: Context) -> None:
        if len(self.episode) < self.settings.update_every:
            return
        ids, states, _ = self.episode.take()
        cross_entropy, kd = self.updated_student.losses(context, ids)
        reward = -(cross_entropy + kd)
        reward = ((reward - reward.mean()) / reward.std(correction=0).clamp_min(1e-4)).clamp(0, 1)
        loss = -(reward * self.agent(states).log_softmax(-1).T).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = detached(
            {
                "agent": self.agent.state_dict(),
                "state_moments": self.state_moments.state_dict(),
                "episode": self.episode.state_dict(),
            }
        )
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.agent.load_state_dict(state["agent"])
        self.state_moments.load_state_dict(state["state_moments"])
        self.episode.load_state_dict(state["episode"], self.setup.device)
