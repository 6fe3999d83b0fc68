"""Mixing weight from the teacher's probability of the label."""

from __future__ import annotations

from pydantic import Field

from strategies.base import Context, Normalisation, Settings, Strategy, Weights
from strategies.parts.probabilities import label_probability, teacher_probabilities
from strategies.registry import register
from strategies.space import FloatRange


class TeacherConfidenceSettings(Settings):
    kd_weight: float = Field(0.9, ge=0.0, le=1.0)
    """Weight of the KD term where the teacher is sure of the label."""
    gamma: float = Field(1.0, ge=0.0)
    """Exponent; 0 is plain KD."""

    search_space = {"kd_weight": FloatRange(low=0.3, high=1.0), "gamma": FloatRange(low=0.5, high=4.0)}


@register
class TeacherConfidence(Strategy[TeacherConfidenceSettings]):
    """w_kd,i = kd_weight * p_T,i(label)^gamma, w_ce,i = 1 - w_kd,i, with p_T at temperature 1.

    No paper: a convention.

    Claims: kd rises with teacher agreement.
    """

    name = "teacher_confidence"
    family = "sample-wise heuristic"
    summary = "more KD where the teacher gives the label a high probability"
    paper = "convention"
    sample_wise = True
    normalisation = Normalisation.CONVEX
    Settings = TeacherConfidenceSettings

    def weights(self, context: Context) -> Weights:
        confidence = label_probability(teacher_probabilities(context), context.labels)
        kd = self.settings.kd_weight * confidence**self.settings.gamma
        return {"ce": 1 - kd, "kd": kd}
