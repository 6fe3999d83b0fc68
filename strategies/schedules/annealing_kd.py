"""Annealing-KD: regression on the teacher's logits, scaled up step by step; then the labels alone."""

from __future__ import annotations

from pydantic import Field

from strategies.base import Context, Needs, Normalisation, Settings, Strategy, TermShape, Weights
from strategies.registry import register
from strategies.space import FloatRange, IntRange


class AnnealingKdSettings(Settings):
    regression_share: float = Field(14 / 18, gt=0.0, lt=1.0)
    """Share of training in phase 1, the regression; the authors' GLUE runs have 14 of 18 epochs."""
    levels: int = Field(7, ge=1)
    """tau_max: phase 1 has so many equal parts; in part tau the teacher's logits are scaled by tau / levels."""

    search_space = {"regression_share": FloatRange(low=0.3, high=0.9), "levels": IntRange(low=2, high=10)}


@register
class AnnealingKd(Strategy[AnnealingKdSettings]):
    """Phase 1: L = mean_i |s_i - Phi t_i|^2 / classes, Phi = tau / tau_max rising to 1. Phase 2: L = mean_i ce_i.

    Differs: phase 2 goes on from phase 1's last state under one learning-rate schedule, because a trial is one training; the
    scale rises with progress and not with whole epochs, because trainings here are short.
    """

    name = "annealing_kd"
    family = "scheduled"
    summary = "two phases: regression on growing teacher logits, then labels"
    paper = "Jafari et al., Annealing Knowledge Distillation, EACL 2021, arXiv 2104.07163"
    sample_wise = False
    normalisation = Normalisation.CONVEX
    reconstruction = (
        "The authors start phase 2 from phase 1's best checkpoint; here it goes on from its last, under one learning-rate "
        "schedule. The scale rises with progress, not with whole epochs, so that it also rises in short trainings."
    )
    Settings = AnnealingKdSettings

    @classmethod
    def warm_up(cls, settings: AnnealingKdSettings, epochs: int) -> float:
        return settings.regression_share * epochs

    @classmethod
    def needs(cls, settings: AnnealingKdSettings) -> Needs:
        return Needs(terms=("ce", "mse_logits"), teachers=(1, None))

    def shape_terms(self, context: Context) -> TermShape:
        done = min(1.0, context.progress / self.settings.regression_share)
        level = min(int(done * self.settings.levels), self.settings.levels - 1) + 1
        return TermShape(temperature=context.temperature, teacher_scale=level / self.settings.levels)

    def weights(self, context: Context) -> Weights:
        regression = context.progress < self.settings.regression_share
        return {"ce": 0.0 if regression else 1.0, "mse_logits": 1.0 if regression else 0.0}
