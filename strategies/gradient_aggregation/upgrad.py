"""UPGrad: project every gradient so that it conflicts with none, then average."""

from __future__ import annotations

from typing import Any

from strategies.base import Cost, Normalisation
from strategies.parts.extra_terms import TermSettings
from strategies.parts.gradient_aggregator import GradientAggregator
from strategies.registry import register


@register
class UpGrad(GradientAggregator[TermSettings]):
    """Each term's gradient is projected onto the cone of directions that harm no term; the mean of the projections is taken.

    Without a conflict all weights are 1 / (number of terms).

    As published.
    """

    name = "upgrad"
    family = "gradient aggregation"
    summary = "unconflicting projection of gradients (Jacobian descent)"
    paper = "Quinton & Rey, Jacobian Descent for Multi-Objective Optimization, arXiv 2406.16232, 2024"
    sample_wise = False
    cost = Cost.PER_TERM
    normalisation = Normalisation.ADDITIVE
    packages = ("torchjd", "qpsolvers", "quadprog")

    def make_weighting(self) -> Any:
        from torchjd.aggregation import UPGradWeighting

        return UPGradWeighting()
