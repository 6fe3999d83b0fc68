"""Mixing weight from the teacher's certainty."""

from __future__ import annotations

from pydantic import Field

from strategies.base import Context, Normalisation, Settings, Strategy, Weights
from strategies.parts.probabilities import relative_entropy, teacher_probabilities
from strategies.registry import register
from strategies.space import FloatRange


class TeacherEntropySettings(Settings):
    kd_weight: float = Field(1.0, ge=0.0, le=1.0)
    """Weight of the KD term where the teacher is certain."""
    entropy_temperature: float = Field(1.0, gt=0.0)
    """Temperature of the teacher's probabilities in the entropy. A teacher that fits its training set is certain of nearly all
    samples at 1."""

    search_space = {"kd_weight": FloatRange(low=0.3, high=1.0), "entropy_temperature": FloatRange(low=1.0, high=5.0)}


@register
class TeacherEntropy(Strategy[TeacherEntropySettings]):
    """w_kd,i = kd_weight * (1 - H(p_T,i) / log classes), w_ce,i = 1 - w_kd,i.

    Differs: the entropy weighs KD against labels, because there is one teacher and the paper weighs several.

    Claims: kd rises with teacher confidence.
    """

    name = "teacher_entropy"
    family = "sample-wise heuristic"
    summary = "more KD where the teacher's entropy is low"
    paper = "Kwon et al. (EBKD), ICASSP 2020, weigh several teachers so"
    sample_wise = True
    normalisation = Normalisation.CONVEX
    reconstruction = "The paper's weight is among several teachers; this is its form for one teacher."
    Settings = TeacherEntropySettings

    def weights(self, context: Context) -> Weights:
        certainty = 1 - relative_entropy(teacher_probabilities(context, self.settings.entropy_temperature))
        kd = self.settings.kd_weight * certainty
        return {"ce": 1 - kd, "kd": kd}
