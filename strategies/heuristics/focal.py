"""Focal weights: samples that the student finds hard count more."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from strategies.base import Context, Normalisation, Settings, Strategy, Weights
from strategies.lazy import torch
from strategies.parts.probabilities import student_cross_entropy
from strategies.registry import register
from strategies.space import FloatRange

SMALLEST = 1e-7


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
    """L = mean_i [(1 - kd_weight) f_i ce_i + kd_weight f_i kd_i], f_i = (1 - p_i)^gamma, p_i = p_S,i(label).

    The gradient goes through the factor, as in the paper. ce_i = -log p_i, so
    grad f_i = gamma p_i (1 - p_i)^(gamma - 1) grad ce_i, and constant weights on the two terms have the same gradient:

        w_ce,i = (1 - kd_weight) f_i + gamma p_i (1 - p_i)^(gamma - 1) [(1 - kd_weight) ce_i + kd_weight kd_i]
        w_kd,i = kd_weight f_i

    with the terms in brackets that have the factor. What is logged are these weights.

    Differs: the factor is on KD, too, because the paper has cross-entropy alone.

    Claims: kd rises with student loss.
    """

    name = "focal"
    family = "sample-wise heuristic"
    summary = "less weight for samples that the student already has right"
    paper = "Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv 1708.02002, eq. 4"
    sample_wise = True
    normalisation = Normalisation.ADDITIVE
    reconstruction = "The paper has cross-entropy alone; its factor on a KD mixture is a convention."
    Settings = FocalSettings

    def weights(self, context: Context) -> Weights:
        settings = self.settings
        cross_entropy = student_cross_entropy(context)
        # float32 cannot tell 1 - p below this from 0, where a gamma below 1 has no derivative
        hard = (-torch.expm1(-cross_entropy)).clamp_min(SMALLEST)
        factor = hard**settings.gamma
        slope = settings.gamma * (1 - hard) * hard ** (settings.gamma - 1)
        ce_weight = torch.full_like(factor, 1 - settings.kd_weight)
        kd_weight = torch.full_like(factor, settings.kd_weight)
        through_factor = torch.zeros_like(factor)
        if settings.apply_to != "kd":
            through_factor = through_factor + ce_weight * cross_entropy
            ce_weight = ce_weight * factor
        if settings.apply_to != "ce":
            through_factor = through_factor + kd_weight * context.terms["kd"]
            kd_weight = kd_weight * factor
        return {"ce": ce_weight + slope * through_factor, "kd": kd_weight}
