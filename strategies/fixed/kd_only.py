"""The teacher's softened outputs alone."""

from __future__ import annotations

from strategies.base import Context, Needs, Normalisation, Settings, Strategy, Weights
from strategies.registry import register


@register
class KdOnly(Strategy[Settings]):
    """L = mean_i kd_i. The other end point of the mixture; the labels are not used.

    No paper: the end point that every comparison needs.
    """

    name = "kd_only"
    family = "fixed"
    summary = "the teacher's outputs alone, no labels"
    paper = "convention"
    sample_wise = False
    normalisation = Normalisation.CONVEX

    @classmethod
    def needs(cls, settings: Settings) -> Needs:
        return Needs(terms=("kd",), teachers=(1, None))

    def weights(self, context: Context) -> Weights:
        return {"kd": 1.0}
