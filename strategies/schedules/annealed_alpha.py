"""A mixing weight that follows a schedule over training."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from strategies.base import Context, Needs, Normalisation, Settings, Strategy, Weights
from strategies.registry import register
from strategies.space import Choice, FloatRange


class AnnealedAlphaSettings(Settings):
    kd_weight: float = Field(1.0, ge=0.0, le=1.0)
    """The weight that the schedule multiplies: the KD term's weight at the start (of `reverse`: at the end)."""
    schedule: Literal["linear", "cosine", "exponential", "step", "reverse"] = "linear"
    """linear, cosine: from 1 to 0. exponential: exp(-decay * progress). step: `plateaus` levels, each `drop` times the one
    before. reverse: linear from 0 to 1."""
    decay: float = Field(5.0, gt=0.0)
    """Rate of `exponential`."""
    plateaus: int = Field(4, ge=2)
    """Number of levels of `step`."""
    drop: float = Field(0.5, gt=0.0, lt=1.0)
    """Factor from one level of `step` to the next."""

    search_space = {
        "kd_weight": FloatRange(low=0.3, high=1.0),
        "schedule": Choice(values=["linear", "cosine", "exponential", "step", "reverse"]),
    }


@register
class AnnealedAlpha(Strategy[AnnealedAlphaSettings]):
    """w_kd = kd_weight * factor(progress), w_ce = 1 - w_kd.

    Linear with kd_weight 1 is, at temperature 1, BAM!'s teacher annealing: the target r * one-hot + (1 - r) * teacher.

    Differs: the schedules but linear are controls, because the paper has that one alone; the KD term keeps its temperature,
    because all strategies share it.
    """

    name = "annealed_alpha"
    family = "scheduled"
    summary = "the KD weight follows a schedule: linear, cosine, exponential, step or reverse"
    paper = "linear: Clark et al., BAM!, ACL 2019; the other schedules are controls"
    sample_wise = False
    normalisation = Normalisation.CONVEX
    Settings = AnnealedAlphaSettings

    @classmethod
    def needs(cls, settings: AnnealedAlphaSettings) -> Needs:
        return Needs(teachers=(1, None))

    def weights(self, context: Context) -> Weights:
        kd = self.settings.kd_weight * self.factor(context.progress)
        return {"ce": 1.0 - kd, "kd": kd}

    def factor(self, progress: float) -> float:
        """In [0, 1], for progress in [0, 1]."""
        settings = self.settings
        match settings.schedule:
            case "linear":
                return 1.0 - progress
            case "cosine":
                return 0.5 * (1.0 + math.cos(math.pi * progress))
            case "exponential":
                return math.exp(-settings.decay * progress)
            case "step":
                return settings.drop ** min(int(progress * settings.plateaus), settings.plateaus - 1)
            case "reverse":
                return progress
