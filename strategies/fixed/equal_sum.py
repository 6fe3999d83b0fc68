"""Both losses, simply added."""

from __future__ import annotations

from strategies.base import Context, Needs, Normalisation, Strategy, Weights
from strategies.parts.extra_terms import TermSettings
from strategies.registry import register


@register
class EqualSum(Strategy[TermSettings]):
    """L = mean_i [ce_i + kd_i + ...]: equal weights in the multi-task convention. Twice the scale of a convex mixture.

    No paper: a convention of multi-task libraries.
    """

    name = "equal_sum"
    family = "fixed"
    summary = "cross-entropy plus KD, both with weight 1"
    paper = "convention of multi-task libraries (equal weighting)"
    sample_wise = False
    normalisation = Normalisation.ADDITIVE
    Settings = TermSettings

    @classmethod
    def needs(cls, settings: TermSettings) -> Needs:
        return Needs(terms=settings.terms, teachers=(1, None))

    def weights(self, context: Context) -> Weights:
        return dict.fromkeys(context.terms, 1.0)
