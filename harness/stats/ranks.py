"""Ranks over tasks (Demsar, JMLR 2006). With seven tasks they separate extremes only: never the ground of a claim."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.stats.bootstrap import widened
from harness.stats.metrics import Array


@dataclass(frozen=True)
class Ranking:
    mean_ranks: Array
    """[strategies]; 1 is best, ties share their mean."""
    friedman_p: float
    critical_difference: float
    cliques: tuple[tuple[int, ...], ...]
    """Maximal groups, by index, best first, whose mean ranks span less than the critical difference."""


def mean_ranks(scores: Array) -> Array:
    """Of scores [strategies, tasks], higher is better. Scores that differ by rounding errors alone are ties."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(-np.round(scores, 9), axis=0).mean(1))


def critical_difference(strategies: int, tasks: int, alpha: float = 0.05) -> float:
    """Nemenyi's: q_alpha sqrt(k (k + 1) / (6 N)), q from the studentised range with infinite degrees of freedom."""
    from scipy.stats import studentized_range

    q = studentized_range.ppf(1 - alpha, strategies, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(strategies * (strategies + 1) / (6 * tasks)))


def rank_strategies(scores: Array, alpha: float = 0.05) -> Ranking:
    """Of scores [strategies, tasks]: at least 3 strategies and 2 tasks, none missing (ValueError)."""
    from scipy.stats import friedmanchisquare

    if np.isnan(scores).any():
        raise ValueError("ranks of a table with missing cells mean nothing")
    if scores.shape[0] < 3 or scores.shape[1] < 2:
        raise ValueError(f"ranks need at least 3 strategies and 2 tasks, got {scores.shape}")
    ranks = mean_ranks(scores)
    difference = critical_difference(scores.shape[0], scores.shape[1], alpha)
    rounded = np.round(scores, 9)
    same = bool((rounded == rounded[:1]).all())
    p = 1.0 if same else float(friedmanchisquare(*rounded).pvalue)
    return Ranking(ranks, p, difference, _cliques(ranks, difference))


@dataclass(frozen=True)
class RankRange:
    """The ranks that a strategy may have, 1 being best."""

    best: int
    """1 + how many are shown to be better."""
    worst: int
    """All but those that it is shown to be better than."""


def rank_ranges(means: Array, examples: Array, repeats: Array, freedom: Array, alpha: float = 0.05) -> list[RankRange]:
    """Of means [strategies]; `examples` and `repeats` [strategies, strategies] are the variances of their differences by what
    they come from, the latter estimated with `freedom` degrees.

    One-sided tests of all pairs, not corrected: who is not told apart shares ranks.
    """
    from scipy.special import ndtri

    ahead = means[:, None] - means[None, :]
    critical = widened(-ndtri(alpha), examples, repeats, freedom) * np.sqrt(examples + repeats)
    better = (ahead > critical) & (ahead > 1e-9)
    count = len(means)
    return [RankRange(1 + int(better[:, i].sum()), count - int(better[i].sum())) for i in range(count)]


def _cliques(ranks: Array, difference: float) -> tuple[tuple[int, ...], ...]:
    order = np.argsort(ranks, kind="stable")
    found: list[tuple[int, ...]] = []
    reached = 0
    for start in range(len(order)):
        end = start
        while end + 1 < len(order) and ranks[order[end + 1]] - ranks[order[start]] < difference:
            end += 1
        if end > start and end + 1 > reached:
            found.append(tuple(int(i) for i in order[start : end + 1]))
            reached = end + 1
    return tuple(found)
