"""MGDA: the shortest vector in the hull of the terms' gradients."""

from __future__ import annotations

from typing import Any, Literal

from strategies.base import Context, Cost, Normalisation
from strategies.lazy import torch
from strategies.parts.extra_terms import TermSettings
from strategies.parts.gradient_aggregator import GradientAggregator
from strategies.registry import register
from strategies.space import Choice


class MgdaSettings(TermSettings):
    scale_by: Literal["nothing", "norm", "loss", "loss_and_norm"] = "nothing"
    """What each gradient is divided by before the shortest vector is sought. Unscaled, the term with the smaller gradient gets
    most of the weight."""

    search_space = {"scale_by": Choice(values=["nothing", "norm", "loss", "loss_and_norm"])}


@register
class Mgda(GradientAggregator[MgdaSettings]):
    """w = argmin |sum_m w_m grad L_m|^2 over w >= 0, sum w = 1.

    With two terms: w_ce = clip(<g_kd - g_ce, g_kd> / |g_ce - g_kd|^2, 0, 1).

    As published, on the gradients of all parameters.
    """

    name = "mgda"
    family = "gradient aggregation"
    summary = "the convex combination of gradients with the smallest norm"
    paper = "Désidéri, C. R. Math. 2012; Sener & Koltun, Multi-Task Learning as Multi-Objective Optimization, NeurIPS 2018"
    sample_wise = False
    cost = Cost.PER_TERM
    normalisation = Normalisation.CONVEX
    Settings = MgdaSettings

    def make_weighting(self) -> Any:
        from torchjd.aggregation import MGDAWeighting

        return MGDAWeighting()

    def prepare(self, context: Context, gramian: torch.Tensor) -> torch.Tensor:
        scale = torch.ones(len(gramian), device=gramian.device)
        if "loss" in self.settings.scale_by:
            scale = scale * torch.stack([term.mean() for term in context.terms.values()])
        if "norm" in self.settings.scale_by:
            scale = scale * gramian.diagonal().sqrt()
        scale = scale.clamp_min(1e-12)
        return gramian / torch.outer(scale, scale)
