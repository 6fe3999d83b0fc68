"""Paired bootstrap over examples (Efron & Tibshirani 1993; for paired systems Koehn 2004), and draws of repeats."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.stats.metrics import METRICS, Array, class_indicators

_CELLS_AT_ONCE, _DRAWS_AT_ONCE = 100_000, 64
"""Counts of so many cells stay in a core's cache; of fewer draws, the product with many rows would be slow."""


def draws_for(comparisons: int) -> int:
    """Draws that settle p at Holm's first threshold, 0.05 / comparisons.

    Of so many, fifty lie beyond a difference with that p, which is then known to a seventh of itself. With fewer, what is
    significant after correction is a matter of the seed; with fewer than 40 for every comparison, nothing can be.
    At least 40,000, a matter of seconds: a p of 0.01 to a fourteenth.
    """
    return max(40_000, 2_000 * comparisons)


def resampled_scores(
    metric: str, labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int, draws: int, seed: int
) -> Array:
    """Scores of all runs on resampled examples: [draws, runs]. Every draw uses the same examples for all runs.

    `labels` [rows], `predicted` [runs, rows].
    """
    rng = np.random.default_rng(seed)
    hits, said, actual = class_indicators(labels, predicted, classes)
    rows, runs = len(labels), len(predicted)
    if metric == "accuracy":  # needs the number of right predictions alone
        hits, said, actual = hits.sum(-1, keepdims=True), np.zeros((rows, runs, 0)), actual.sum(-1, keepdims=True)
    columns = np.concatenate([hits.reshape(rows, -1), said.reshape(rows, -1), actual], axis=1).astype(np.float32)
    per_run = hits.shape[-1]
    at_once = max(_DRAWS_AT_ONCE, _CELLS_AT_ONCE // rows)
    parts = []
    for start in range(0, draws, at_once):
        counts = (example_counts(rng, rows, min(at_once, draws - start)) @ columns).astype(np.float64)
        cut = runs * per_run
        hit = counts[:, :cut].reshape(len(counts), runs, per_run)
        predictions = counts[:, cut : cut + said[0].size].reshape(len(counts), runs, said.shape[-1])
        present = counts[:, None, cut + said[0].size :]
        parts.append(METRICS[metric](hit, predictions, present))
    return np.concatenate(parts)


def example_counts(rng: np.random.Generator, rows: int, draws: int) -> NDArray[np.float32]:
    """How often each row is drawn, [draws, rows]; float32 is exact for counts."""
    drawn = rng.integers(0, rows, size=(draws, rows))
    drawn += np.arange(draws)[:, None] * rows
    return np.bincount(drawn.ravel(), minlength=draws * rows).reshape(draws, rows).astype(np.float32)


def repeat_directions(repeats: int, draws: int, seed: int, freedom: int) -> Array:
    """[draws, repeats]: times the scores of the repeats, what their mean may be off by as repeats differ.

    Student's t with `freedom` degrees and the scale of the standard error of the mean, the same directions for everyone, so
    that differences of paired repeats come out right. Drawing two or three repeats with replacement instead has two thirds
    of that variance or less and no tails, and finds differences between equals (tests/harness/stats/test_tests.py). One
    repeat: zeros, nothing is known of the others.
    """
    if repeats == 1:
        return np.zeros((draws, 1))
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((draws, repeats))
    directions -= directions.mean(1, keepdims=True)
    directions *= np.sqrt(freedom / rng.chisquare(freedom, (draws, 1)) / (repeats * (repeats - 1)))
    return np.asarray(directions)


def interval(samples: Array, level: float = 0.95) -> Array:
    """Percentile interval over the first axis: [2, ...]; NaN where a sample is NaN."""
    tail = (1 - level) / 2
    return np.asarray(np.quantile(samples, [tail, 1 - tail], axis=0))


def two_sided_p(differences: Array) -> Array:
    """Achieved significance level over the first axis: twice the smaller share of draws on either side of 0.

    At least 2 / (draws + 1), as the observed difference counts as a draw.
    NaN where a draw is NaN.
    """
    draws = len(differences)
    below = ((differences <= 0).sum(0) + 1) / (draws + 1)
    above = ((differences >= 0).sum(0) + 1) / (draws + 1)
    p = np.minimum(1.0, 2 * np.minimum(below, above))
    return np.where(np.isnan(differences).any(0), np.nan, p)
