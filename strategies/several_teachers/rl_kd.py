"""RL-KD: a policy that selects teachers for each sample, trained by how the student then does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from strategies.base import Context, Cost, Needs, Normalisation, Setup, Strategy, Weights
from strategies.lazy import torch
from strategies.parts.delayed_reward import Episode, UpdatedStudent
from strategies.parts.several_teachers import MixtureSettings, context_cross_entropy, mixed, needs_teachers
from strategies.parts.state import RunningStandardisation, detached
from strategies.registry import register
from strategies.space import Choice, FloatRange


class RLKDSettings(MixtureSettings):
    mode: Literal["sample", "soft"] = "sample"
    """sample: the drawn teachers share the weight equally. soft: all share it in proportion to their probabilities of being
    drawn; the policy still learns from a draw."""
    reward: Literal["labels", "labels_and_teachers", "accuracy"] = "labels_and_teachers"
    """The student's -CE on the sample; -(CE + mean KD of the sample's teachers); or that + accuracy_weight * accuracy on the
    meta set, which training then does without."""
    accuracy_weight: float = Field(1.0, ge=0.0)
    """Of the meta set's accuracy in the third reward."""
    empty: Literal["labels", "most_probable"] = "labels"
    """A sample for which no teacher is drawn learns from its label alone, or from the most probable teacher."""
    warmup_fraction: float = Field(0.1, ge=0.0, le=1.0)
    """Share of the steps in which the student learns from all teachers with equal weights."""
    pretrain_policy: bool = False
    """The policy learns in the warm-up too, from "all teachers" as the action."""
    update_every: int = Field(10, ge=1)
    """Batches until the reward is collected, from the student as it is then, and the policy makes one step."""
    policy_learning_rate: float = Field(1e-2, gt=0.0)
    """Of the policy's Adam."""
    entropy_weight: float = Field(1e-3, ge=0.0)
    """Of the policy's entropy in its objective; it keeps probabilities from 0 and 1."""
    representation: Literal["student", "teachers", "none"] = "student"
    """The sample's vector in the state: the student's pooled one, or for each teacher its own."""
    shared_policy: bool = True
    """One policy for all teachers, or one for each."""

    search_space = {
        "kd_weight": FloatRange(low=0.2, high=0.7),
        "reward": Choice(values=["labels", "labels_and_teachers"]),
        "policy_learning_rate": FloatRange(low=1e-3, high=1e-1, log=True),
    }


@register
class RLKD(Strategy[RLKDSettings]):
    """a[k, i] ~ Bernoulli(sigmoid(A s[k, i] + b)), w[k, i] = a[k, i] / sum_j a[j, i].

    State s[k, i] = [R(x_i); p_k,i; ce_k,i]: the sample's vector, teacher k's probabilities, its cross-entropy, standardised by
    running moments. Policy objective, maximised by Adam once every `update_every` batches:

        mean_i (r_i - baseline) / scale * sum_k log pi(a[k, i] | s[k, i]) + entropy_weight * entropy,

    with the running mean and standard deviation of the rewards. A and b start at 0: every teacher with probability 1/2.

    Differs: baseline and scale of rewards, standardised states, entropy, Adam and the length of an episode are ours, because
    only summaries of the paper could be read.
    """

    name = "rl_kd"
    family = "several teachers"
    summary = "a policy selects teachers for each sample and learns from the student's later loss"
    paper = "Yuan et al., Reinforced Multi-Teacher Selection for Knowledge Distillation, AAAI 2021, arXiv 2012.06048"
    sample_wise = True
    learned = True
    cost = Cost.REPLAY
    normalisation = Normalisation.CONVEX
    reconstruction = (
        "State, action, logistic policy, policy gradient and three rewards were read in others' summaries; the formulas of the "
        "rewards are recalled. Ours: baseline and scale of the rewards, standardised states, entropy, Adam, the student's "
        "vector, the length of an episode, the share of warm-up, and what happens where no teacher is drawn."
    )
    Settings = RLKDSettings

    def __init__(self, settings: RLKDSettings, setup: Setup) -> None:
        """Raises ValueError for a shared policy on teachers' vectors of different sizes."""
        super().__init__(settings, setup)
        teachers = len(setup.teachers)
        features = setup.classes + 1 + _vector_size(settings, setup)
        policies = 1 if settings.shared_policy else teachers
        self.slope = torch.zeros(policies, features, device=setup.device, requires_grad=True)
        self.intercept = torch.zeros(policies, 1, device=setup.device, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.slope, self.intercept], lr=settings.policy_learning_rate)
        self.state_moments = RunningStandardisation(features, setup.device)
        self.reward_moments = RunningStandardisation(1, setup.device, slowest=0.1)
        self.episode = Episode()
        self.updated_student = UpdatedStudent(setup)

    @classmethod
    def needs(cls, settings: RLKDSettings) -> Needs:
        return needs_teachers(
            replay=True,
            meta_set=settings.reward == "accuracy",
            student_features=settings.representation == "student",
            teacher_features=settings.representation == "teachers",
        )

    @classmethod
    def refuses_teachers(cls, settings: RLKDSettings, hidden_sizes: Mapping[str, int | None]) -> str | None:
        sizes = {name: size for name, size in hidden_sizes.items() if size is not None}
        if settings.representation != "teachers" or len(set(sizes.values())) <= 1:
            return None
        shown = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        return (
            f"with representation: teachers it needs teachers with vectors of one size, and these differ ({shown}). Use "
            "representation: student, or choose teachers with `teachers: [NAME, ...]` under the strategy"
        )

    def weights(self, context: Context) -> Weights:
        settings = self.settings
        states = self._states(context)
        with torch.no_grad():
            preference = self._preference(states)
        warm_up = context.step < settings.warmup_fraction * self.setup.total_steps
        if warm_up:
            actions = torch.ones_like(preference)
        else:
            draws = torch.rand(preference.shape, generator=context.generator).to(preference.device)
            actions = (draws < preference.sigmoid()).float()
        if not warm_up or settings.pretrain_policy:
            self.episode.add(context.ids, states, actions)
        if settings.mode == "soft" and not warm_up:
            return mixed(torch.nn.functional.logsigmoid(preference).softmax(0), settings.kd_weight)
        return self._selected(actions, preference)

    def _states(self, context: Context) -> torch.Tensor:
        """[teachers, batch, features]."""
        probabilities = context.teacher_logits.softmax(-1)
        parts = [probabilities, context_cross_entropy(context).unsqueeze(-1)]
        if self.settings.representation == "student":
            assert context.student_features is not None
            parts.append(context.student_features.expand(len(probabilities), -1, -1))
        elif self.settings.representation == "teachers":
            assert context.teacher_features is not None
            parts.append(torch.stack(context.teacher_features))
        states = torch.cat(parts, -1)
        self.state_moments.update(states.flatten(0, 1))
        return self.state_moments(states)

    def _preference(self, states: torch.Tensor) -> torch.Tensor:
        """The logit of each teacher's probability, [teachers, batch]."""
        return (states * self.slope.unsqueeze(1)).sum(-1) + self.intercept

    def _selected(self, actions: torch.Tensor, preference: torch.Tensor) -> Weights:
        """Equal weights for the selected teachers, with the fall-back for samples without any."""
        count = actions.sum(0)
        none = count == 0
        if self.settings.empty == "most_probable":
            most = (preference == preference.max(0).values).float()
            shares = torch.where(none, most / most.sum(0), actions / count.clamp_min(1))
            return mixed(shares, self.settings.kd_weight)
        kd = self.settings.kd_weight
        return {"ce": torch.where(none, 1.0, 1.0 - kd), "kd_each": kd * actions / count.clamp_min(1)}

    def after_step(self, context: Context) -> None:
        if len(self.episode) >= self.settings.update_every:
            self._learn(context)

    def _learn(self, context: Context) -> None:
        """One step of the policy on the episode, rewarded by the student as the episode has left it."""
        ids, states, actions = self.episode.take()
        advantage = self._advantage(self._rewards(context, ids, actions))
        preference = self._preference(states)
        cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits
        log_probability = -cross_entropy(preference, actions, reduction="none").sum(0)
        entropy = cross_entropy(preference, preference.sigmoid(), reduction="none").sum(0)
        objective = (advantage * log_probability).mean() + self.settings.entropy_weight * entropy.mean()
        self.optimizer.zero_grad(set_to_none=True)
        (-objective).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def _rewards(self, context: Context, ids: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """[samples]. Where no teacher was drawn, the mean KD is that of all teachers: an empty draw is no way to a reward."""
        cross_entropy, kd = self.updated_student.losses(context, ids)
        if self.settings.reward == "labels":
            return -cross_entropy
        count = actions.sum(0)
        mean_kd = torch.where(count > 0, (actions * kd).sum(0) / count.clamp_min(1), kd.mean(0))
        reward = -(cross_entropy + mean_kd)
        if self.settings.reward == "accuracy":
            assert context.replay is not None
            assert self.setup.meta is not None
            right = context.replay(None).argmax(-1).cpu() == self.setup.meta.labels.cpu()
            reward = reward + self.settings.accuracy_weight * right.float().mean().to(reward.device)
        return reward

    def _advantage(self, rewards: torch.Tensor) -> torch.Tensor:
        """By the moments of earlier episodes: what all samples of an episode share, such as its accuracy, counts too."""
        column = rewards.unsqueeze(-1)
        first = self.reward_moments.batches == 0
        if first:
            self.reward_moments.update(column)
        advantage = self.reward_moments(column).squeeze(-1)
        if not first:
            self.reward_moments.update(column)
        return advantage

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = detached(
            {
                "slope": self.slope,
                "intercept": self.intercept,
                "optimizer": self.optimizer.state_dict(),
                "state_moments": self.state_moments.state_dict(),
                "reward_moments": self.reward_moments.state_dict(),
                "episode": self.episode.state_dict(),
            }
        )
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            self.slope.copy_(state["slope"])
            self.intercept.copy_(state["intercept"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.state_moments.load_state_dict(state["state_moments"])
        self.reward_moments.load_state_dict(state["reward_moments"])
        self.episode.load_state_dict(state["episode"], self.setup.device)


def _vector_size(settings: RLKDSettings, setup: Setup) -> int:
    if settings.representation == "student":
        return setup.student_hidden_size
    if settings.representation == "none":
        return 0
    sizes = dict(zip(setup.teachers, setup.teacher_hidden_sizes, strict=True))
    if reason := RLKD.refuses_teachers(settings, sizes):
        raise ValueError(f"rl_kd: {reason}")
    return setup.teacher_hidden_sizes[0]
