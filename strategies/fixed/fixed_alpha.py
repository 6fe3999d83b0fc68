"""Plain distillation: one fixed mixing weight."""

from __future__ import annotations

from pydantic import Field

from strategies.base import Context, Needs, Normalisation, Settings, Strategy, Weights
from strategies.registry import register
from strategies.space import FloatRange


class FixedAlphaSettings(Settings):
    kd_weight: float = Field(0.5, ge=0.0, le=1.0)
    """Weight of the KD term; cross-entropy gets the rest. (Papers disagree on which of the two `alpha` multiplies.)"""

    search_space = {"kd_weight": FloatRange(low=0.05, high=0.95)}


@register
class FixedAlpha(Strategy[FixedAlphaSettings]):
    """L = mean_i [(1 - kd_weight) ce_i + kd_weight kd_i], with T^2 inside kd.

    As published.
    """

    name = "fixed_alpha"
    family = "fixed"
    summary = "plain KD: one fixed weight for all samples and steps"
    paper = "Hinton, Vinyals & Dean, arXiv 1503.02531, 2015"
    sample_wise = False
    normalisation = Normalisation.CONVEX
    Settings = FixedAlphaSettings

    @classmethod
    def needs(cls, settings: FixedAlphaSettings) -> Needs:
        return Needs(teachers=(1, None))

    def weights(self, context: Context) -> Weights:
        return {"ce": 1.0 - self.settings.kd_weight, "kd": self.settings.kd_weight}
