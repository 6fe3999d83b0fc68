"""How small an effect could have been seen."""

from __future__ import annotations

import numpy as np

from harness.stats.metrics import Array


def minimum_detectable_effect(differences: Array, alpha: float = 0.05, power: float = 0.8) -> Array:
    """The true difference that a two-sided test of level `alpha` finds with probability `power`.

    `differences` [draws, ...]: a bootstrap of the observed difference. An effect is found where its draws leave 0 outside
    their central 1 - alpha; it is found with probability `power` where it lies a further quantile `power` away. For normal
    draws this is the textbook (z[1 - alpha / 2] + z[power]) x standard error.
    """
    low, middle, high, powerful, powerless = np.quantile(differences, [alpha / 2, 0.5, 1 - alpha / 2, power, 1 - power], axis=0)
    return np.asarray((high - low) / 2 + np.fmax(powerful - middle, middle - powerless))
