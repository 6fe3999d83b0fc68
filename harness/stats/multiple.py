"""Several tests at once: Holm's correction, and Westfall and Young's (1993) step-down max-T over sign-flips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.stats import EXACT_UNITS, LEVEL, RANDOM_FLIPS, smallest_p
from harness.stats.metrics import Array

_EQUAL = 1e-9
MOST_BETWEEN = 2.0
"""Of what repeats explain: more of it finds less where differences vary between data sets, less of it finds less where they do
not, as then the few repeats tell the standard error alone (compared in tests/harness/stats/test_tests.py).
"""


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


def max_t(differences: Array, sets: int = 1, level: float = LEVEL, seed: int = 0) -> MaxT:
    """Two-sided tests that the differences of each row are symmetric about 0: [tests, units] of paired differences.

    Units are of `sets` data sets, set after set, with as many repeats each. A unit's sign is flipped in all rows at once, so
    that the family keeps its dependence. A row with a NaN is a test that was not made.
    """
    tests, units = differences.shape
    p, single = np.full(tests, np.nan), np.full(tests, np.nan)
    made = np.flatnonzero(np.isfinite(differences).all(1))
    if not len(made) or not units:
        return MaxT(p, single, float("nan"))
    flipped = _statistics(sign_flips(units, seed), differences[made], sets)
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


def _statistics(flips: Array, rows: Array, sets: int) -> Array:
    """[flips, tests]: |mean| over its standard error, but for a constant: Student's t where there is one set.

    With several sets the spread between their means counts as chance up to MOST_BETWEEN times what the spread of the repeats
    within sets explains. What goes beyond says that two strategies differ more on one set than on another, which is a
    difference: with all of it in the standard error a strategy that is far behind on one set, and behind on all, could never be
    found. Flips change the spread within sets, so that it is computed for each; any statistic keeps their level.
    """
    units = flips.shape[1]
    repeats = units // sets
    total, squares = np.zeros((len(flips), len(rows))), np.zeros((len(flips), len(rows)))
    for start in range(0, units, repeats):
        of_set = flips[:, start : start + repeats] @ rows[:, start : start + repeats].T
        total += of_set
        squares += of_set**2 / repeats
    everything = (rows**2).sum(1)
    within, between = np.maximum(everything - squares, 0.0), np.maximum(squares - total**2 / units, 0.0)
    if repeats > 1:
        explained = within * ((sets - 1) / (units - sets))
        between = np.minimum(between, MOST_BETWEEN * explained)
    # rounding alone must not make a standard error; equal differences have none, and the largest statistic
    error = np.sqrt(np.maximum(within + between, 1e-12 * everything))
    return np.asarray(np.abs(total) / np.where(error > 0, error, 1.0))
