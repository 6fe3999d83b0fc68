"""CAGrad: the best worst-case improvement near the average gradient."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from strategies.base import Cost, Normalisation
from strategies.parts.extra_terms import TermSettings
from strategies.parts.gradient_aggregator import GradientAggregator
from strategies.registry import register
from strategies.space import FloatRange


class CaGradSettings(TermSettings):
    radius: float = Field(0.5, ge=0.0, lt=1.0)
    """How far from the average gradient the update may go, as a share of its norm (c in the paper); 0 is the average."""

    search_space = {"radius": FloatRange(low=0.1, high=0.9)}


@register
class CaGrad(GradientAggregator[CaGradSettings]):
    """d = argmax min_m <d, grad L_m> subject to |d - g0| <= radius |g0|, g0 the average gradient.

    Differs: the update is not divided by 1 + radius^2, as the authors' code divides it, because algorithm 1 does not; gradients
    are of all parameters, because a student has no layers of one term alone.
    """

    name = "cagrad"
    family = "gradient aggregation"
    summary = "conflict-averse update: improves the worst term, near the average gradient"
    paper = "Liu et al., Conflict-Averse Gradient Descent for Multi-task Learning, NeurIPS 2021, algorithm 1"
    sample_wise = False
    cost = Cost.PER_TERM
    normalisation = Normalisation.ADDITIVE
    packages = ("torchjd", "cvxpy", "clarabel")
    Settings = CaGradSettings

    def make_weighting(self) -> Any:
        from torchjd.aggregation import CAGradWeighting

        return CAGradWeighting(c=self.settings.radius)
