"""MTKD-RL: an agent that shares weight among teachers, with two heuristics beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from strategies.base import Context, Needs, Setup, Weights
from strategies.lazy import torch
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
    update_every: int = Field(1000, ge=1)
    """Batches between two phases in which the agent trains; it also trains after each epoch. In a phase it makes one step for
    each batch since the last."""
    equal_epochs: int = Field(1, ge=0)
    """First epochs in which all teachers have the same weight, at the paper's scale 1 each. The authors' trainings have 240."""
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
    """w = mean of the agent's softmax_k, (1 - softmax_k(ce_k)) / (teachers - 1), and softmax_k(T^2 KL(p_k || p_S)).

    The agent is one ReLU layer over all teachers' [vector; logits; cross-entropy; T^2 KL to the student]. For each batch it
    descends mean_k,i r_i * -log w[k, i], the binary cross-entropy of the combined weights with 1. The reward of a sample,
    r_i = -(ce_i + sum_k w[k, i] kd_each[k, i]), with the weights that were used, is standardised over the batch and clamped to
    [0, 1]: weights of samples with a low loss count, and no single teacher earns more than another. (This is the authors' rule,
    `train` and `train_agent` in train_loops.py and `PolicyTrans` in models/policy.py of winycg/MTKD-RL without
    --dynamic; it is no REINFORCE.) The agent's last layer starts at 0: equal weights.

    Differs: no loss on features, in reward and state neither, because strategies among teachers weigh their outputs alone;
    states are standardised and the agent starts with equal weights, because its inputs' scales differ between tasks.

    Claims: kd_each rises with teacher agreement.
    """

    name = "mtkd_rl"
    family = "several teachers"
    summary = "an agent trained by reward shares the weight among teachers, with two heuristics"
    paper = (
        "Yang et al., Multi-Teacher Knowledge Distillation with Reinforcement Learning for Visual Recognition, AAAI 2025, "
        "arXiv 2502.18510, and the authors' code"
    )
    sample_wise = True
    learned = True
    reconstruction = (
        "Without the feature loss, its weights, and its distance in state and reward. Ours: standardised states, logits "
        "without their mean, and a last layer that starts at 0. Rewards are those of the paper's loss at any kd_weight. The "
        "authors' program was read in a fork of its repository."
    )
    Settings = MTKDRLSettings

    def __init__(self, settings: MTKDRLSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        teachers = len(setup.teachers)
        inputs = teachers * (setup.classes + 2) + (sum(setup.teacher_hidden_sizes) if settings.teacher_features else 0)
        self.agent = feed_forward(inputs, (settings.hidden_size,), teachers, setup.seed, setup.device)
        self.optimizer = torch.optim.SGD(self.agent.parameters(), lr=settings.agent_learning_rate)
        self.state_moments = RunningStandardisation(inputs, setup.device)
        self.phase: list[dict[str, torch.Tensor]] = []
        """Of each batch since the agent last trained: its states, the sum of the heuristics' weights, and its rewards."""

    @classmethod
    def needs(cls, settings: MTKDRLSettings) -> Needs:
        return needs_teachers(teacher_features=settings.teacher_features)

    @classmethod
    def warm_up(cls, settings: MTKDRLSettings, epochs: int) -> float:
        return min(settings.equal_epochs, epochs)

    def weights(self, context: Context) -> Weights:
        teachers = len(context.teacher_logits)
        if teachers == 1:  # nothing to share
            return scaled(torch.ones(1, 1, device=context.ids.device), self.settings)
        cross_entropy = context_cross_entropy(context)
        kd = context.terms["kd_each"]
        batch = {
            "states": self._states(context, cross_entropy, kd),
            "heuristics": complement(cross_entropy.softmax(0)) + kd.softmax(0),
        }
        equal = context.epoch < self.settings.equal_epochs
        with torch.no_grad():
            weights = torch.ones_like(kd) if equal else self._combined(batch)
        self.phase.append(detached({**batch, "rewards": rewards(context.terms["ce"] + (weights * kd).sum(0))}))
        return scaled(weights / teachers, self.settings, teachers) if equal else scaled(weights, self.settings)

    def _combined(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """[teachers, batch], with sums of 1 over teachers."""
        agent: torch.Tensor = self.agent(batch["states"]).softmax(-1).T
        return (agent + batch["heuristics"]) / 3 if self.settings.heuristics else agent

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
        if len(self.phase) >= self.settings.update_every:
            self._train_agent()

    def end_epoch(self, epoch: int, mean_terms: Mapping[str, float]) -> None:
        self._train_agent()

    def _train_agent(self) -> None:
        for batch in self.phase:
            loss = -(batch["rewards"] * self._combined(batch).log()).mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        self.phase = []

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = detached(
            {"agent": self.agent.state_dict(), "state_moments": self.state_moments.state_dict(), "phase": self.phase}
        )
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.agent.load_state_dict(state["agent"])
        self.state_moments.load_state_dict(state["state_moments"])
        self.phase = [{name: values.to(self.setup.device) for name, values in batch.items()} for batch in state["phase"]]


def rewards(losses: torch.Tensor) -> torch.Tensor:
    """Minus the losses, standardised over the batch and clamped to [0, 1], [batch]; 0 where all samples lose the same."""
    if len(losses) == 1:
        return torch.zeros_like(losses)
    return ((losses.mean() - losses) / losses.std().clamp_min(1e-6)).clamp(0, 1)
