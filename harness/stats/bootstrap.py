"""Paired bootstrap over examples and repeats (Efron & Tibshirani 1993; for paired systems Koehn 2004)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.stats.metrics import METRICS, Array, class_indicators

_CELLS_AT_ONCE = 4_000_000


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
    at_once = max(1, _CELLS_AT_ONCE // rows)
    parts = []
    for start in range(0, draws, at_once):
        counts = (_example_counts(rng, rows, min(at_once, draws - start)) @ columns).astype(np.float64)
        cut = runs * per_run
        hit = counts[:, :cut].reshape(len(counts), runs, per_run)
        predictions = counts[:, cut : cut + said[0].size].reshape(len(counts), runs, said.shape[-1])
        present = counts[:, None, cut + said[0].size :]
        parts.append(METRICS[metric](hit, predictions, present))
    return np.concatenate(parts)


def _example_counts(rng: np.random.Generator, rows: int, draws: int) -> NDArray[np.float32]:
    """How often each row is drawn, [draws, rows]; float32 is exact for counts."""
    drawn = rng.integers(0, rows, size=(draws, rows))
    drawn += np.arange(draws)[:, None] * rows
    return np.bincount(drawn.ravel(), minlength=draws * rows).reshape(draws, rows).astype(np.float32)


def resampled_repeats(draws: int, repeats: int, seed: int) -> Array:
    """Weights of the repeats in each draw, [draws, repeats], summing to 1: drawn with replacement."""
    drawn = np.random.default_rng(seed).integers(0, repeats, size=(draws, repeats))
    return np.asarray((drawn[:, :, None] == np.arange(repeats)).mean(1))


def mean_over_repeats(scores: Array, weights: Array) -> Array:
    """[draws, strategies, repeats] and [draws, repeats] -> [draws, strategies]; NaN where a repeat is missing."""
    return np.asarray(np.einsum("dsr,dr->ds", scores, weights))


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
