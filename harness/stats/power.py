"""How small an effect could have been seen."""

from __future__ import annotations

from harness.stats.metrics import Array


def minimum_detectable_effect(standard_error: Array | float, alpha: float = 0.05, power: float = 0.8) -> Array | float:
    """The true difference that a two-sided z test of level `alpha` finds with probability `power`."""
    from scipy.stats import norm

    return standard_error * float(norm.ppf(1 - alpha / 2) + norm.ppf(power))
