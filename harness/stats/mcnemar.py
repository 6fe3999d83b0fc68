"""McNemar's test on paired right-or-wrong outcomes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class McNemar:
    """`a_only` and `b_only`: how often only one of the two was right, summed over examples and repeats."""

    a_only: int
    b_only: int
    p: float


def mcnemar(right_a: NDArray[np.bool_], right_b: NDArray[np.bool_]) -> McNemar:
    """Two-sided test that a and b are right equally often. Both [repeats, rows], paired.

    One repeat: the exact binomial test (McNemar 1947). Several: an example's outcomes over repeats belong together, so the
    examples are the units (Durkalski et al. 2003): chi2(1) of (sum d)^2 / sum d^2, d = an example's difference over repeats.
    """
    from scipy.stats import binomtest, chi2

    a_only, b_only = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    if a_only + b_only == 0:
        return McNemar(0, 0, 1.0)
    if len(right_a) == 1:
        return McNemar(a_only, b_only, float(binomtest(a_only, a_only + b_only).pvalue))
    difference = right_a.sum(0).astype(np.float64) - right_b.sum(0)
    squares = float((difference**2).sum())
    p = 1.0 if squares == 0 else float(chi2.sf(difference.sum() ** 2 / squares, 1))
    return McNemar(a_only, b_only, p)
