"""Cross-entropy with the labels alone: the student without a teacher."""

from __future__ import annotations

from strategies.base import Context, Needs, Normalisation, Settings, Strategy, Weights
from strategies.registry import register


@register
class CeOnly(Strategy[Settings]):
    """L = mean_i ce_i. The lower end point of every comparison.

    No paper: the end point that every comparison needs.
    """

    name = "ce_only"
    family = "fixed"
    summary = "labels alone, no teacher"
    paper = "convention"
    sample_wise = False
    normalisation = Normalisation.CONVEX

    @classmethod
    def needs(cls, settings: Settings) -> Needs:
        return Needs(terms=("ce",), teachers=(0, None))

    def weights(self, context: Context) -> Weights:
        return {"ce": 1.0}
