"""Distil only what the teacher gets right."""

from __future__ import annotations

from pydantic import Field

from strategies.base import Context, Normalisation, Settings, Strategy, Weights
from strategies.parts.probabilities import teacher_right
from strategies.registry import register
from strategies.space import FloatRange


class CorrectnessGateSettings(Settings):
    kd_weight: float = Field(0.9, ge=0.0, le=1.0)
    """Weight of the KD term where the teacher is right; 0 where it is wrong."""

    search_space = {"kd_weight": FloatRange(low=0.3, high=1.0)}


@register
class CorrectnessGate(Strategy[CorrectnessGateSettings]):
    """w_kd,i = kd_weight where the teacher's most probable class is the label, else 0; w_ce,i = 1 - w_kd,i.

    No paper: a convention.

    Claims: kd rises with teacher agreement.
    """

    name = "correctness_gate"
    family = "sample-wise heuristic"
    summary = "KD only where the teacher is right"
    paper = "convention"
    sample_wise = True
    normalisation = Normalisation.CONVEX
    Settings = CorrectnessGateSettings

    def weights(self, context: Context) -> Weights:
        kd = self.settings.kd_weight * teacher_right(context).float()
        return {"ce": 1 - kd, "kd": kd}
