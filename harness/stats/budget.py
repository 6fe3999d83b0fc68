"""What a search found by when: over trials, and at equal compute.

The closed formula for the expected best of k trials (Dodge et al. 2019) assumes random search; these trials are TPE's, so
the searches are followed as they went.
"""

from __future__ import annotations

import numpy as np

from harness.stats.metrics import Array


def best_so_far(objectives: Array) -> Array:
    """Running maximum along the last axis; NaN (a failed trial) counts as no better, leading NaN stays."""
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
