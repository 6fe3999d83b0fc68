"""Universal-KD: intermediate layers compared as pseudo-classifiers' outputs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from strategies.base import Context, Needs, Weights
from strategies.parts.fixed_weights import FixedWeights, FixedWeightSettings
from strategies.registry import register


class UniversalKdSettings(FixedWeightSettings):
    stages: Literal["joint", "two"] = "joint"
    """joint: all terms from beginning to end. two, as in the paper: the KD terms alone, then cross-entropy alone."""
    first_stage: float = Field(0.7, gt=0.0, lt=1.0)
    """With two stages, the first one's share of the training steps."""

    probe_l2: float = Field(1e-3, gt=0.0)
    """Weight decay in the fit of the teacher layers' pseudo-classifiers, on standardised hidden states. They are fitted to the
    rows that the teacher was trained on: with little, and few rows, they are as sure there as the labels are."""


@register
class UniversalKd(FixedWeights[UniversalKdSettings]):
    """L = mean_i [ce_weight ce_i + kd_weight kd_i + term_weight layer_kd_i].

    layer_kd lets each student layer imitate, through a pseudo-classifier, an attention-weighted mixture of the teacher layers'
    pseudo-classifiers (`harness.loss_terms.layer_kd`).

    Differs: attention, weights, the lengths of the stages and the pseudo-classifiers' training are ours, because only the
    abstract and a third party's summary could be read.
    """

    name = "universal_kd"
    family = "further terms"
    summary = "CE, KD and KD between layers through pseudo-classifiers with attention"
    paper = "Wu et al., Universal-KD: Attention-based Output-Grounded Intermediate Layer Knowledge Distillation, EMNLP 2021"
    reconstruction = (
        "Only the abstract and a third-party summary could be read. The attention (inner products of logits) follows ALP-KD "
        "(Passban et al., AAAI 2021); weights, the stages' lengths and the pseudo-classifiers' training are ours."
    )
    Settings = UniversalKdSettings
    term = "layer_kd"

    @classmethod
    def warm_up(cls, settings: UniversalKdSettings, epochs: int) -> float:
        return settings.first_stage * epochs if settings.stages == "two" else 0.0

    @classmethod
    def needs(cls, settings: UniversalKdSettings) -> Needs:
        options = {"probe_l2": settings.probe_l2}
        return Needs(terms=("ce", "kd", "layer_kd"), teachers=(1, None), term_options={"layer_kd": options})

    def weights(self, context: Context) -> Weights:
        weights = dict(super().weights(context))
        if self.settings.stages == "joint":
            return weights
        first = context.progress < self.settings.first_stage
        return {name: weight if (name == "ce") != first else 0.0 for name, weight in weights.items()}
