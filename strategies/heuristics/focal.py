"""Focal weights: samples that the student finds hard count more."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from strategies.base import Context, Normalisation, Settings, Strategy, Weights
from strategies.parts.probabilities import label_probability, student_probabilities
from strategies.registry import register
from strategies.space import FloatRange


class FocalSettings(Settings):
    kd_weight: float = Field(0.5, ge=0.0, le=1.0)
    """Mixing weight of the KD term before the focal factor."""
    gamma: float = Field(2.0, ge=0.0)
    """Exponent; 0 is plain KD."""
    apply_to: Literal["both", "ce", "kd"] = "both"
    """Terms that get the focal factor."""

    search_space = {"kd_weight": FloatRange(low=0.1, high=0.9), "gamma": FloatRange(low=0.5, high=4.0)}


@register
class Focal(Strategy[FocalSettings]):
    """w_ce,i = (1 - kd_weight) f_i, w_kd,i = kd_weight f_i, f_i = (1 - p_S,i(label))^gamma."""

    name = "focal"
    family = "sample-wise heuristic"
    summary = "less weight for samples that the student already has right"
    paper = "Lin et al., Focal Loss, ICCV 2017, eq. 4; on a KD mixture it is a convention"
    sample_wise = True
    normalisation = Normalisation.ADDITIVE
    Settings = FocalSettings

    def weights(self, context: Context) -> Weights:
        settings = self.settings
        easy = label_probability(student_probabilities(context), context.labels)
        focal = (1 - easy).clamp_min(0.0) ** settings.gamma
        return {
            "ce": (1 - settings.kd_weight) * (focal if settings.apply_to != "kd" else 1.0),
            "kd": settings.kd_weight * (focal if settings.apply_to != "ce" else 1.0),
        }
