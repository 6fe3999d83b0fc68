"""The usual form of a paper that adds a loss term: cross-entropy, KD and the new one, each with a fixed weight."""

from __future__ import annotations

from typing import ClassVar, TypeVar

from pydantic import Field

from strategies.base import Context, Normalisation, Settings, Strategy, Weights
from strategies.space import FloatRange


class FixedWeightSettings(Settings):
    ce_weight: float = Field(0.5, ge=0.0)
    """Weight of cross-entropy."""
    kd_weight: float = Field(0.5, ge=0.0)
    """Weight of KD on the last layer's logits."""
    term_weight: float = Field(0.5, ge=0.0)
    """Weight of the added term."""

    search_space = {"kd_weight": FloatRange(low=0.05, high=1.0), "term_weight": FloatRange(low=0.05, high=2.0, log=True)}


S = TypeVar("S", bound=FixedWeightSettings)


class FixedWeights(Strategy[S]):
    """L = mean_i [ce_weight ce_i + kd_weight kd_i + term_weight term_i]."""

    term: ClassVar[str]
    """The added loss term."""
    sample_wise = False
    normalisation = Normalisation.ADDITIVE

    def weights(self, context: Context) -> Weights:
        settings = self.settings
        return {"ce": settings.ce_weight, "kd": settings.kd_weight, self.term: settings.term_weight}
