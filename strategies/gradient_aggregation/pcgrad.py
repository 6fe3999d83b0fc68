"""PCGrad: project away what conflicts."""

from __future__ import annotations

from typing import Any

from strategies.base import Cost, Normalisation
from strategies.parts.extra_terms import TermSettings
from strategies.parts.gradient_aggregator import GradientAggregator
from strategies.registry import register


@register
class PcGrad(GradientAggregator[TermSettings]):
    """Each term's gradient loses its component against every other term's gradient where the two conflict; the sum is taken.

    Without a conflict all weights are 1.

    As published.
    """

    name = "pcgrad"
    family = "gradient aggregation"
    summary = "gradient surgery: projects conflicting gradients onto each other's normal plane"
    paper = "Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020, algorithm 1"
    sample_wise = False
    cost = Cost.PER_TERM
    normalisation = Normalisation.ADDITIVE

    def make_weighting(self) -> Any:
        from torchjd.aggregation import PCGradWeighting

        return PCGradWeighting()
