"""Both losses, simply added."""

from __future__ import annotations

from strategies.base import Context, Needs, Normalisation, Settings, Strategy, Weights
from strategies.registry import register


@register
class EqualSum(Strategy[Settings]):
    """L = mean_i [ce_i + kd_i]: equal weights in the multi-task convention. Twice the scale of a convex mixture."""

    name = "equal_sum"
    family = "fixed"
    summary = "cross-entropy plus KD, both with weight 1"
    paper = "convention of multi-task libraries (equal weighting)"
    sample_wise = False
    normalisation = Normalisation.ADDITIVE

    @classmethod
    def needs(cls, settings: Settings) -> Needs:
        return Needs(teachers=(1, None))

    def weights(self, context: Context) -> Weights:
        return {"ce": 1.0, "kd": 1.0}
