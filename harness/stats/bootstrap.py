"""Paired bootstrap over examples (Efron & Tibshirani 1993; for paired systems Koehn 2004), and draws of repeats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Runs:
    """Of one task: what runs said of rows, and how that is scored."""

    metric: str
    labels: NDArray[np.int64]  # [rows]
    predicted: NDArray[np.int64]  # [runs, rows]
    classes: int


def resampled_scores(tasks: Sequence[Runs], draws: int, seed: int) -> list[Array]:
    """For each task, scores of all runs on resampled examples, [draws, runs]. Every draw takes the same examples for all runs,
    and for all tasks, which have as many rows: those of one data set.
    """
    rng = np.random.default_rng(seed)
    rows = len(tasks[0].labels)
    prepared = [_prepared(task) for task in tasks]
    at_once = max(_DRAWS_AT_ONCE, _CELLS_AT_ONCE // rows)
    parts: list[list[Array]] = [[] for _ in tasks]
    for start in range(0, draws, at_once):
        counts = example_counts(rng, rows, min(at_once, draws - start))
        for task, (columns, per_run, said), part in zip(tasks, prepared, parts, strict=True):
            summed = (counts @ columns).astype(np.float64)
            runs = len(task.predicted)
            cut = runs * per_run
            hit = summed[:, :cut].reshape(len(counts), runs, per_run)
            predictions = summed[:, cut : cut + runs * said].reshape(len(counts), runs, said)
            part.append(METRICS[task.metric](hit, predictions, summed[:, None, cut + runs * said :]))
    return [np.concatenate(part) for part in parts]


def _prepared(task: Runs) -> tuple[NDArray[np.float32], int, int]:
    """What is added up over rows, [rows, columns]: of each run so many columns of hits, then so many of predictions; labels."""
    hits, said, actual = class_indicators(task.labels, task.predicted, task.classes)
    rows, runs = len(task.labels), len(task.predicted)
    if task.metric == "accuracy":  # needs the number of right predictions alone
        hits, said, actual = hits.sum(-1, keepdims=True), np.zeros((rows, runs, 0)), actual.sum(-1, keepdims=True)
    columns = np.concatenate([hits.reshape(rows, -1), said.reshape(rows, -1), actual], axis=1).astype(np.float32)
    return columns, hits.shape[-1], said.shape[-1]


def example_counts(rng: np.random.Generator, rows: int, draws: int) -> NDArray[np.float32]:
    """How often each row is drawn, [draws, rows]; float32 is exact for counts."""
    drawn = rng.integers(0, rows, size=(draws, rows))
    drawn += np.arange(draws)[:, None] * rows
    return np.bincount(drawn.ravel(), minlength=draws * rows).reshape(draws, rows).astype(np.float32)


def repeat_directions(repeats: int, draws: int, seed: int) -> Array:
    """[draws, repeats]: times the scores of the repeats, what their mean may be off by as repeats differ, were their variance
    known: normal, with the scale of the standard error of the mean. `with_tails` makes it Student's t.

    The same directions for everyone, so that differences of paired repeats come out right. Drawing two or three repeats with
    replacement instead has two thirds of that variance or less and no tails, and finds differences between equals
    (tests/harness/stats/test_tests.py). One repeat: zeros, nothing is known of the others.
    """
    if repeats == 1:
        return np.zeros((draws, 1))
    directions = np.random.default_rng(seed).standard_normal((draws, repeats))
    directions -= directions.mean(1, keepdims=True)
    return np.asarray(directions / np.sqrt(repeats * (repeats - 1)))


def freedom_of_sum(variances: Array, freedom: float) -> Array:
    """Degrees of freedom of a sum of independent estimated variances [parts, ...], each with `freedom` of its own: Welch (1947)
    and Satterthwaite (1946). Infinite where nothing was estimated.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(variances.sum(0) == 0, np.inf, freedom * variances.sum(0) ** 2 / (variances**2).sum(0))


def widened(z: Array | float, examples: Array | float, repeats: Array | float, freedom: Array | float) -> Array:
    """Quantiles in standard errors where z, above 0, is that of a normal distribution: the variance by `examples` is known, of
    so many rows, that by `repeats` is estimated with so many degrees of freedom.

    The normal's quantile and Student's t, each weighed by its variance (Cochran & Cox 1950). One t with Welch's and
    Satterthwaite's degrees for both together is too narrow where three repeats outweigh the rows (92 of 100 intervals hold the
    truth), and the sum of a normal and a t too wide (97.6): tests/harness/stats/test_bootstrap.py.
    """
    from scipy.special import ndtr, stdtrit

    total = np.add(examples, repeats)
    share = np.where(total > 0, repeats / np.where(total > 0, total, 1.0), 0.0)
    return np.asarray(z + share * np.where(share > 0, -stdtrit(freedom, ndtr(-np.asarray(z))) - z, 0.0))


_KNOTS = np.arange(0.05, 6.5, 0.05)


def with_tails(by_examples: Array, by_repeats: Array, variances: Array, freedom: int) -> Array:
    """[draws] of a mean over tasks: `by_examples` [draws] on drawn examples, `by_repeats` [draws] what it is off by as repeats
    differ, of `repeat_directions`; `variances` [tasks] of the latter, each estimated with `freedom` degrees.
    """
    repeats, examples = float(variances.sum()), float(by_examples.var())
    if not repeats > 0:
        return by_examples + by_repeats
    middle = by_examples.mean()
    off = by_examples - middle + by_repeats
    degrees = float(freedom_of_sum(variances, freedom))
    stretch = widened(_KNOTS, examples, repeats, degrees) / _KNOTS
    return np.asarray(middle + off * np.interp(np.abs(off) / np.sqrt(examples + repeats), _KNOTS, stretch))


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
