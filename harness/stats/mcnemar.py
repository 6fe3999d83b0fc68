"""McNemar's test on paired right-or-wrong outcomes of two runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class McNemar:
    """`a_only` and `b_only`: on how many examples only one of the two was right."""

    a_only: int
    b_only: int
    p: float


def mcnemar(right_a: NDArray[np.bool_], right_b: NDArray[np.bool_]) -> McNemar:
    """Exact two-sided binomial test (McNemar 1947) that a and b [rows] are right equally often.

    Of one run each: it knows nothing of what training varies. With several repeats half of all equals would "differ".
    """
    from scipy.stats import binomtest

    a_only, b_only = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p = 1.0 if a_only + b_only == 0 else float(binomtest(a_only, a_only + b_only).pvalue)
    return McNemar(a_only, b_only, p)
