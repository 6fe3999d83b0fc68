"""Several tests at once: Holm's correction, and Westfall and Young's (1993) step-down max-T over sign-flips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.stats.level import EXACT_UNITS, LEVEL, RANDOM_FLIPS, smallest_p
from harness.stats.metrics import Array

_EQUAL = 1e-9


def holm(p: Array) -> Array:
    """Holm's (1979) adjusted p-values of a family [tests]. NaN stands for a test that was not made, and stays."""
    adjusted = np.full(len(p), np.nan)
    made = np.flatnonzero(~np.isnan(p))
    order = made[np.argsort(p[made], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return adjusted


@dataclass(frozen=True)
class MaxT:
    """Of a family [tests]; NaN for a test that was not made."""

    p: Array
    """Adjusted: the family's error rate is kept however its tests depend on each other."""
    single: Array
    """Of each test alone."""
    pointwise: float
    """Level of one test alone at which a single step of max-T marks it; NaN where no p below the level is possible."""


def sign_flips(units: int, seed: int = 0) -> Array:
    """[flips, units] of 1 and -1; the first row is the observed signs. A flip and its mirror give one two-sided statistic, so
    that of all 2^units only those are made whose first sign is 1.
    """
    if units <= EXACT_UNITS:
        bits = (np.arange(2 ** (units - 1))[:, None] >> np.arange(units)) & 1
        return np.asarray(1.0 - 2.0 * np.roll(bits, 1, axis=1))  # the highest bit, which is 0, to the front
    drawn = np.random.default_rng(seed).integers(0, 2, (RANDOM_FLIPS + 1, units)) * 2.0 - 1.0
    drawn[0] = 1.0
    return np.asarray(drawn)


def max_t(differences: Array, level: float = LEVEL, seed: int = 0) -> MaxT:
    """Two-sided tests that the differences of each row are symmetric about 0: [tests, units] of paired differences.

    The statistic is |sum| / root of the sum of squares, which is Student's t but for its scale. A unit's sign is flipped in all
    rows at once, so that the family keeps its dependence. A row with a NaN is a test that was not made.
    """
    tests, units = differences.shape
    p, single = np.full(tests, np.nan), np.full(tests, np.nan)
    made = np.flatnonzero(np.isfinite(differences).all(1))
    if not len(made) or not units:
        return MaxT(p, single, float("nan"))
    rows = differences[made]
    scale = np.sqrt((rows**2).sum(1))
    rows = rows / np.where(scale > 0, scale, 1.0)[:, None]
    flipped = np.abs(sign_flips(units, seed) @ rows.T)  # [flips, tests]
    observed = flipped[0]
    single[made] = (flipped >= observed - _EQUAL).mean(0)
    order = np.argsort(-observed, kind="stable")
    largest = np.maximum.accumulate(flipped[:, order[::-1]], axis=1)[:, ::-1]  # over the test and those behind it
    stepped = (largest >= observed[order] - _EQUAL).mean(0)
    p[made[order]] = np.maximum.accumulate(stepped)
    pointwise = float("nan")
    if smallest_p(units) < level:
        tops = np.sort(largest[:, 0])
        critical = tops[1 - np.searchsorted(tops, tops - _EQUAL) / len(tops) < level]  # seldom enough under the null
        if len(critical):
            pointwise = float((flipped >= critical[0] - _EQUAL).mean())
    return MaxT(p, single, pointwise)
