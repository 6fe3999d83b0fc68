"""Several tests at once."""

from __future__ import annotations

import numpy as np

from harness.stats.metrics import Array


def holm(p: Array) -> Array:
    """Holm's (1979) adjusted p-values of a family [tests]. NaN stands for a test that was not made, and stays."""
    adjusted = np.full(len(p), np.nan)
    made = np.flatnonzero(~np.isnan(p))
    order = made[np.argsort(p[made], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return adjusted
