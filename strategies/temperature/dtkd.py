"""DTKD: a temperature for each model and sample, so that both are equally sharp."""

from __future__ import annotations

from pydantic import Field

from strategies.base import Context, Needs, Normalisation, Settings, Strategy, Weights
from strategies.registry import register
from strategies.space import FloatRange


class DtkdSettings(Settings):
    ce_weight: float = Field(1.0, ge=0.0)
    """Weight of cross-entropy."""
    dynamic_weight: float = Field(3.0, ge=0.0)
    """Weight of KD with dynamic temperatures (alpha in the paper)."""
    kd_weight: float = Field(1.0, ge=0.0)
    """Weight of plain KD (beta in the paper)."""
    warm_up_share: float = Field(20 / 240, ge=0.0, le=1.0)
    """Share of the training over which both KD parts rise from 0. The authors' 20 of 240 epochs, scaled. 0: no warm-up."""

    search_space = {
        "dynamic_weight": FloatRange(low=0.5, high=4.0, log=True),
        "kd_weight": FloatRange(low=0.25, high=4.0, log=True),
    }


@register
class Dtkd(Strategy[DtkdSettings]):
    """L = mean_i [ce_weight ce_i + r (dynamic_weight dtkd_i + kd_weight kd_i)], r = min(progress / warm_up_share, 1).

    dtkd is the term `dynamic_temperature_kd`, whose docstring has the temperatures. Weights and warm-up as in
    `mdistiller/engine/cfg.py` of JinYu1998/DTKD, whose T is 4; the README there withdraws the derivation (eq. 4 and 5) and
    keeps the method. With two classes dtkd is 0 wherever both models agree on the class; the rest is plain KD.

    Differs: logits are centred over the classes first, because the authors' temperatures change with a number added to
    all logits, and can be negative; and in that r rises from step to step, because a fine-tuning has few epochs.
    """

    name = "dtkd"
    family = "temperature side"
    summary = "temperatures of teacher and student for each sample, from their largest logits, beside plain KD"
    paper = "Wei & Bai, Dynamic Temperature Knowledge Distillation, arXiv 2404.12711, 2024, and the authors' code"
    sample_wise = False
    normalisation = Normalisation.ADDITIVE
    Settings = DtkdSettings

    @classmethod
    def warm_up(cls, settings: DtkdSettings, epochs: int) -> float:
        return settings.warm_up_share * epochs

    @classmethod
    def needs(cls, settings: DtkdSettings) -> Needs:
        return Needs(terms=("ce", "kd", "dynamic_temperature_kd"), teachers=(1, None))

    def weights(self, context: Context) -> Weights:
        settings = self.settings
        rise = min(context.progress / settings.warm_up_share, 1.0) if settings.warm_up_share else 1.0
        return {
            "ce": settings.ce_weight,
            "kd": rise * settings.kd_weight,
            "dynamic_temperature_kd": rise * settings.dynamic_weight,
        }
