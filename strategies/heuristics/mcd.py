"""Correctness-aware distillation: other weights where the teacher errs."""

from __future__ import annotations

from pydantic import Field

from strategies.base import Context, Normalisation, Settings, Strategy, Weights
from strategies.lazy import torch
from strategies.parts.probabilities import teacher_right
from strategies.registry import register
from strategies.space import FloatRange


class McdSettings(Settings):
    kd_right: float = Field(12.0, ge=0.0)
    """Weight of the KD term where the teacher is right."""
    ce_right: float = Field(1.0, ge=0.0)
    """Weight of cross-entropy where the teacher is right."""
    kd_wrong: float = Field(1.0, ge=0.0)
    """Weight of the KD term where the teacher is wrong."""
    ce_wrong: float = Field(2.0, ge=0.0)
    """Weight of cross-entropy where the teacher is wrong."""

    search_space = {
        "kd_right": FloatRange(low=1.0, high=20.0, log=True),
        "ce_wrong": FloatRange(low=0.5, high=4.0, log=True),
    }


@register
class Mcd(Strategy[McdSettings]):
    """L_i = 12 kd_i + ce_i where the teacher is right, kd_i + 2 ce_i where it is wrong.

    Differs: the rule is that of Selective-KD's code, because the paper could not be read.

    Claims: kd rises with teacher agreement; ce falls with teacher agreement.
    """

    name = "mcd"
    family = "sample-wise heuristic"
    summary = "strong KD where the teacher is right, more label where it is wrong"
    paper = (
        "Mishra, Mishra & Xiong, Correctness-Aware Knowledge Distillation for Enhanced Student Learning, TMLR 2026, eq. 4 as "
        "in Selective-KD's code"
    )
    sample_wise = True
    normalisation = Normalisation.ADDITIVE
    reconstruction = "Constants and form are those of ugkd/methods/mcd.py in Selective-KD/Selective-KD, which cites eq. 4."
    Settings = McdSettings

    def weights(self, context: Context) -> Weights:
        right = teacher_right(context)
        settings = self.settings
        return {
            "ce": torch.where(right, settings.ce_right, settings.ce_wrong),
            "kd": torch.where(right, settings.kd_right, settings.kd_wrong),
        }
