"""Modality-specific distillation with learned weights of the parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from strategies.base import Context, Cost, Needs, Normalisation, Setup, Strategy, Weights
from strategies.lazy import torch
from strategies.parts.fixed_weights import FixedWeightSettings
from strategies.parts.look_ahead_settings import LookAheadSettings
from strategies.parts.meta_network import MetaNetwork, feed_forward
from strategies.parts.probabilities import (
    entropy,
    student_cross_entropy,
    student_probabilities,
    teacher_cross_entropy,
    teacher_probabilities,
)
from strategies.parts.state import RunningStandardisation
from strategies.registry import register
from strategies.space import FloatRange, IntRange

PARTS = 2
FEATURES = 5 + PARTS


class MsdLearnedSettings(LookAheadSettings, FixedWeightSettings):
    hidden_size: int = Field(32, ge=1)
    """Units of the network's hidden layer."""
    meta_learning_rate: float = Field(1e-3, gt=0.0)
    """Of the network's Adam."""
    interval: int = Field(1, ge=1)
    """Update the network every so many steps."""

    search_space = {
        **FixedWeightSettings.search_space,
        "hidden_size": IntRange(low=16, high=128, log=True),
        "meta_learning_rate": FloatRange(low=1e-4, high=1e-2, log=True),
    }


@register
class MsdLearned(Strategy[MsdLearnedSettings]):
    """As `msd`, with w[m, i] = softmax_m network(what teacher and student say of sample i), trained on the meta set.

    The network follows the loss of a meta batch after the student's step on the weighted loss, as Meta-Weight-Net's does. Its
    last layer starts at 0: all parts weigh the same.

    Differs: the network, its inputs and the meta set are ours, because only the abstract could be read; the parts are those of
    `msd`, because GLUE has no images.
    """

    name = "msd_learned"
    family = "further terms"
    summary = "CE, KD and KD on each part of the input alone, weights of the parts meta-learned"
    paper = (
        "Jin et al., MSD: Saliency-aware Knowledge Distillation for Multimodal Understanding, Findings of EMNLP 2021, "
        "arXiv 2101.01881"
    )
    reconstruction = (
        "Only the abstract could be read; an earlier version's calls the learned weights meta-learning. Network, inputs and "
        "meta set are ours, as are the parts (see msd)."
    )
    sample_wise = True
    learned = True
    cost = Cost.LOOK_AHEAD
    normalisation = Normalisation.ADDITIVE
    Settings = MsdLearnedSettings

    def __init__(self, settings: MsdLearnedSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        network = feed_forward(FEATURES, (settings.hidden_size,), PARTS, setup.seed, setup.device)
        self.meta_learner = MetaNetwork(network, settings.meta_learning_rate)
        self.standardise = RunningStandardisation(FEATURES, setup.device)

    @classmethod
    def needs(cls, settings: MsdLearnedSettings) -> Needs:
        return Needs(
            terms=("ce", "kd", "part_kd_each"),
            teachers=(1, None),
            look_ahead=settings.engine,
            look_ahead_options=settings.step_options,
        )

    def weights(self, context: Context) -> Weights:
        raw = features(context)
        self.standardise.update(raw)
        inputs = self.standardise(raw)
        fixed = {
            "ce": torch.full_like(context.terms["ce"], self.settings.ce_weight),
            "kd": torch.full_like(context.terms["kd"], self.settings.kd_weight),
        }

        def weigh() -> dict[str, torch.Tensor]:
            shares = self.meta_learner.network(inputs).softmax(-1).T
            return {**fixed, "part_kd_each": self.settings.term_weight * shares}

        return self.meta_learner.weights(weigh, context, update=context.step % self.settings.interval == 0)

    def state_dict(self) -> dict[str, Any]:
        return {"standardise": self.standardise.state_dict(), "meta_learner": self.meta_learner.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.standardise.load_state_dict(state["standardise"])
        self.meta_learner.load_state_dict(state["meta_learner"])


def features(context: Context) -> torch.Tensor:
    """[batch, FEATURES]: both cross-entropies and entropies, KD, and KD on each part."""
    columns = (
        student_cross_entropy(context),
        teacher_cross_entropy(context),
        entropy(student_probabilities(context)),
        entropy(teacher_probabilities(context)),
        context.terms["kd"],
        *context.terms["part_kd_each"],
    )
    return torch.stack(columns, dim=-1)
