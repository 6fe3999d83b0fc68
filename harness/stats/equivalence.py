"""Two one-sided tests (Schuirmann 1987): a difference is within a margin, not just not shown to be there."""

from __future__ import annotations

import numpy as np

from harness.stats.metrics import Array


def equivalence_p(differences: Array, margin: float) -> float:
    """Larger p of the two t tests that the mean of paired differences [units] is above -margin and below margin.

    NaN for fewer than two units, or where a difference is NaN.
    """
    from scipy.stats import ttest_1samp

    if len(differences) < 2 or np.isnan(differences).any():
        return float("nan")
    if np.ptp(differences) <= 1e-12 * margin:
        return 0.0 if abs(differences[0]) < margin else 1.0
    above = ttest_1samp(differences, -margin, alternative="greater").pvalue
    below = ttest_1samp(differences, margin, alternative="less").pvalue
    return float(max(above, below))


def share_outside(draws: Array, margin: float) -> Array:
    """The same from draws [draws, ...] of the difference: the larger share beyond one end of it; NaN where a draw is."""
    count = len(draws)
    below = ((draws <= -margin).sum(0) + 1) / (count + 1)
    above = ((draws >= margin).sum(0) + 1) / (count + 1)
    return np.where(np.isnan(draws).any(0), np.nan, np.maximum(below, above))
