"""Strategies on one task, compared in pairs: what the rows and what the repeats leave open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.stats.bootstrap import Runs, interval, repeat_directions, resampled_scores, with_tails
from harness.stats.metrics import METRICS, Array, class_indicators


@dataclass(frozen=True)
class Seeds:
    """Of one task's draws."""

    examples: int
    """The same for tasks that are scored on the same rows: what is lucky in one is lucky in the others."""
    repeats: int


@dataclass(frozen=True)
class Contrast:
    """A sum of signed mean scores, fractions; NaN where a repeat is missing."""

    over_examples: Array  # [draws]
    whole: Array  # [repeats]
    directions: Array  # [draws, repeats] of `repeat_directions`

    @property
    def draws(self) -> Array:
        """[draws]: other examples and other repeats."""
        return drawn_sum([self], np.ones(1))


def drawn_sum(contrasts: Sequence[Contrast], weights: Array) -> Array:
    """[draws] of the weighted sum of a contrast on several tasks, at least one, whose repeats are independent."""
    by_examples = sum(weight * one.over_examples for weight, one in zip(weights, contrasts, strict=True))
    by_repeats = sum(weight * (one.directions @ one.whole) for weight, one in zip(weights, contrasts, strict=True))
    repeats = len(contrasts[0].whole)
    own = [one.whole.var(ddof=1) / repeats if repeats > 1 else 0.0 for one in contrasts]
    return with_tails(np.asarray(by_examples), np.asarray(by_repeats), weights**2 * own, repeats - 1)


@dataclass(frozen=True)
class TaskSample:
    """Bootstrap of one task. All strategies share the draws of examples and of repeats."""

    scores: Array  # [strategies, repeats]
    over_examples: Array
    """[draws, strategies]: mean over repeats on the drawn examples; NaN: a repeat is missing."""
    directions: Array
    """[draws, repeats] of `repeat_directions`."""
    examples_covariance: Array
    """[strategies, strategies] of `over_examples`."""
    chance_covariance: Array
    """The part of it that is no run's luck alike: what a run errs on an example by chance. It is in the spread of the repeats
    already, and would count twice."""
    repeats_covariance: Array
    """Of the mean over repeats, as repeats differ."""
    rows: int = 0
    """Right or wrong on which the scores count; 0 for a measure of something else."""
    seed: int = 0
    """The same for tasks of the same rows."""
    students: NDArray[np.int64] | None = None
    """[strategies, repeats]: the same number for runs that are known to be the same student."""

    @property
    def intervals(self) -> Array:
        """Of the scores, [2, strategies], 95 %."""
        return interval(np.stack([self.contrast(i).draws for i in range(len(self.scores))], axis=1))

    def contrast(self, first: int, second: int | None = None) -> Contrast:
        """First minus second; the score of the first where there is no second."""
        over_examples, whole = self.over_examples[:, first], self.scores[first]
        if second is not None and second != first and self.alike(first, second):
            return Contrast(unseen_difference(self.rows, len(over_examples), self.seed), whole * 0.0, self.directions)
        if second is not None:
            over_examples, whole = over_examples - self.over_examples[:, second], whole - self.scores[second]
        middle = over_examples.mean()
        variance = variance_of(self.examples_covariance, first, second)
        shared = variance - variance_of(self.chance_covariance, first, second)
        scale = np.sqrt(np.clip(shared / variance, 0.0, 1.0)) if variance > 0 else 1.0
        return Contrast(middle + (over_examples - middle) * scale, whole, self.directions)

    def alike(self, first: int, second: int) -> bool:
        """Whether no row told the two apart in any run, though for all that is known they are two."""
        same = (self.scores[first] == self.scores[second]).all() and not self.one_student(first, second)
        return bool(self.rows and same and np.abs(self.over_examples[:, first] - self.over_examples[:, second]).max() < 1e-12)

    def one_student(self, first: int, second: int) -> bool:
        """Whether the two are known to be the same student in every run: then they do not differ on any row."""
        return self.students is not None and bool((self.students[first] == self.students[second]).all())


def unseen_difference(rows: int, draws: int, seed: int) -> Array:
    """[draws] of a difference that not one of `rows` rows has shown, and that may be there: a bootstrap of them knows none.

    A difference of more than x leaves so many rows without a trace with probability exp(-rows x) at most, and x is exceeded, to
    either side, with that probability: 95 % lie within 3.7 / rows, and tests of one side at 5 % within 3 / rows (the rule of
    three: Hanley & Lippman-Hand 1983). Of accuracy; F1 and Matthews' correlation are taken to move as much.
    """
    half = (draws + 1) // 2
    size = np.minimum(np.log(2 * half / (np.arange(half) + 0.5)) / rows, 1.0)  # of all shares alike: as much to either side
    return np.random.default_rng(seed).permutation(np.concatenate([size, -size])[:draws])


def variance_of(covariance: Array, first: int, second: int | None) -> float:
    """Of first minus second, or of the first alone."""
    if second is None:
        return float(covariance[first, first])
    return float(covariance[first, first] + covariance[second, second] - 2 * covariance[first, second])


def difference_variances(covariance: Array) -> Array:
    """Of all pairs, [strategies, strategies]."""
    own = np.diag(covariance)
    return np.asarray(np.maximum(np.add.outer(own, own) - 2 * covariance, 0.0))


def sample_task(
    metric: str,
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    present: NDArray[np.bool_],
    classes: int,
    draws: int,
    seeds: Seeds,
) -> TaskSample:
    """`labels` [rows], `predicted` [strategies, repeats, rows], `present` [strategies, repeats] (False: no such run).

    With one repeat, the examples alone are drawn.
    """  # fmt: skip
    runs = Runs(metric, labels, predicted.reshape(-1, len(labels)), classes)
    (drawn,) = resampled_scores([runs], draws, seeds.examples)
    return scored_sample(runs, drawn, present, seeds)


def scored_sample(runs: Runs, drawn: Array, present: NDArray[np.bool_], seeds: Seeds) -> TaskSample:
    """Of what `resampled_scores` says of the runs, [draws, runs]; `present` [strategies, repeats]."""
    shape = present.shape
    whole = point_scores(runs.metric, runs.labels, runs.predicted.reshape(*shape, -1), runs.classes)
    drawn = np.where(present, drawn.reshape(len(drawn), *shape), np.nan)
    return task_sample(drawn, np.where(present, whole, np.nan), seeds, len(runs.labels))


def task_sample(drawn: Array, whole: Array, seeds: Seeds, rows: int = 0) -> TaskSample:
    """Of scores `whole` [strategies, repeats], and of the same on drawn examples, `drawn` [draws, strategies, repeats]. `rows`
    as `TaskSample` has it.
    """
    draws, _, repeats = drawn.shape
    over_examples = drawn.mean(-1)
    covariance = _covariance(over_examples.T)
    chance, of_repeats = np.zeros_like(covariance), np.zeros_like(covariance)
    if repeats > 1:
        # runs share the examples and nothing else: the covariance of two runs is what the examples do to all alike
        each = np.mean([_covariance(drawn[:, :, r].T) for r in range(repeats)], axis=0)
        chance = (each - covariance) / (repeats - 1)
        of_repeats = _covariance(whole) / repeats
    directions = repeat_directions(repeats, draws, seeds.repeats)
    return TaskSample(whole, over_examples, directions, covariance, chance, of_repeats, rows, seeds.examples)


def _covariance(values: Array) -> Array:
    """Of rows [rows, columns], n - 1."""
    return np.asarray(np.atleast_2d(np.cov(values)))


def point_scores(metric: str, labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> Array:
    """Scores of predicted [..., rows] -> [...]."""
    flat = predicted.reshape(-1, predicted.shape[-1])
    hits, said, actual = class_indicators(labels, flat, classes)
    scores = METRICS[metric](hits.sum(0), said.sum(0), np.broadcast_to(actual.sum(0), said.sum(0).shape))
    return scores.reshape(predicted.shape[:-1])


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
