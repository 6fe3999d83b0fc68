"""From scores per task and repeat to one figure per strategy (Agarwal et al., NeurIPS 2021, "rliable")."""

from __future__ import annotations

import numpy as np

from harness.stats.metrics import Array

LEAST_GAP = 0.01
"""Where teacher and student alone are closer than a point, the normalised score would be noise divided by noise."""


def normalise(scores: Array, student: Array, teacher: Array) -> Array:
    """(score - student alone) / (teacher - student alone) of scores [strategies, tasks, repeats]; references [tasks].

    NaN for tasks where the teacher is not at least LEAST_GAP above the student.
    """
    gap = teacher - student
    usable = np.where(gap >= LEAST_GAP, gap, np.nan)
    return np.asarray((scores - student[None, :, None]) / usable[None, :, None])


def mean(scores: Array) -> Array:
    """Mean over tasks and repeats of [..., tasks, repeats]."""
    return np.asarray(scores.mean((-2, -1)))


def interquartile_mean(scores: Array) -> Array:
    """Mean of the middle half over all tasks and repeats of [..., tasks, repeats] (25 % trimmed at each end)."""
    from scipy.stats import trim_mean

    flat = scores.reshape(*scores.shape[:-2], -1)
    trimmed = trim_mean(flat, 0.25, axis=-1)
    return np.where(np.isnan(flat).any(-1), np.nan, trimmed)


def probability_of_improvement(scores: Array, baseline: Array) -> Array:
    """Mean over tasks of P(a run of the strategy beats a run of the baseline), ties counting half (Mann-Whitney U / R^2).

    `scores` [..., tasks, repeats], `baseline` [..., tasks, repeats].
    """
    ahead = scores[..., :, None] - baseline[..., None, :]
    won = (ahead > 0) + 0.5 * (ahead == 0)
    result = won.mean((-3, -2, -1))
    return np.where(np.isnan(ahead).any((-3, -2, -1)), np.nan, result)


def win_rates(scores: Array) -> Array:
    """[strategies, strategies]: share of (task, repeat) where the row's strategy beats the column's, ties half; diagonal NaN.

    Repeats are paired, so each is compared with its own counterpart. NaN where either has a missing cell.
    """
    flat = scores.reshape(len(scores), -1)
    ahead = flat[:, None, :] - flat[None, :, :]
    rates = ((ahead > 0) + 0.5 * (ahead == 0)).mean(-1)
    rates[np.isnan(ahead).any(-1)] = np.nan
    np.fill_diagonal(rates, np.nan)
    return np.asarray(rates)


def best_so_far(objectives: Array) -> Array:
    """Running maximum along the last axis; NaN (a failed trial) counts as no better, leading NaN stays.

    The closed formula for the expected best of k trials (Dodge et al. 2019) assumes random search; these trials are TPE's, so
    the searches are followed as they went.
    """
    return np.asarray(np.fmax.accumulate(objectives, axis=-1))


def score_within(cost: Array, objectives: Array, scores: Array, budget: float) -> float:
    """Score of the trial with the best objective among the first trials that fit into `budget` together.

    All [trials], in the order of the search; `cost` in the unit of `budget`. NaN where not one fits, or where all that fit
    failed (NaN objective).
    """
    fits = np.cumsum(cost) <= budget * (1 + 1e-9)
    chosen = np.where(fits, objectives, np.nan)
    return float(scores[np.nanargmax(chosen)]) if (~np.isnan(chosen)).any() else float("nan")


def pareto_front(cost: Array, score: Array) -> list[int]:
    """Indices that no other point beats in both (less or equal cost, higher or equal score, one strictly), cheapest first."""
    front: list[int] = []
    best = -np.inf
    for index in np.lexsort((-score, cost)):
        if score[index] > best:
            front.append(int(index))
            best = score[index]
    return front
