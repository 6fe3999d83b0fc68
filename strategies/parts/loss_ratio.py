"""How far a term's mean loss has come, for strategies that compare the terms' progress."""

from __future__ import annotations

ROUNDING = 1e-6
"""A mean float32 loss below this is rounding, of any size and, for KL divergences, of either sign."""


def loss_ratio(now: float, before: float) -> float:
    """The mean loss now in those before, never negative; 1 for a term that is at the level of rounding at both times."""
    return max(now, ROUNDING) / max(before, ROUNDING)
