"""Two strategies on one task, compared in pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.stats.bootstrap import drawn_repeats, interval, resampled_scores, two_sided_p
from harness.stats.mcnemar import McNemar, mcnemar
from harness.stats.metrics import METRICS, Array, class_indicators
from harness.stats.power import minimum_detectable_effect


@dataclass(frozen=True)
class Seeds:
    """Of one task's draws."""

    examples: int
    """The same for tasks that are scored on the same rows: what is lucky in one is lucky in the others."""
    repeats: int


@dataclass(frozen=True)
class TaskSample:
    """Bootstrap of one task. All strategies share the draws of examples and of repeats."""

    means: Array
    """[draws, strategies]: mean over repeats on the drawn examples, off by what repeats differ; NaN: a repeat is missing."""
    pooled: Array
    """The same for averages over tasks, where the spread of repeats is known from those of all tasks."""

    @property
    def intervals(self) -> Array:
        """Of the scores, [2, strategies], 95 %: to look at, so with the tails of `pooled`; tests rest on `differences`."""
        return interval(self.pooled)

    def differences(self, baseline: int) -> Array:
        """[draws, strategies]: strategy minus baseline."""
        return self.means - self.means[:, [baseline]]


@dataclass(frozen=True)
class PairedResult:
    """a minus b, fractions."""

    difference: float
    low: float
    high: float
    p: float
    detectable: float
    """The smallest true difference that would be found with probability 0.8 at level 0.05."""
    mcnemar: McNemar


def sample_task(
    metric: str,
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    present: NDArray[np.bool_],
    classes: int,
    draws: int,
    seeds: Seeds,
    tasks: int = 1,
) -> TaskSample:
    """`labels` [rows], `predicted` [strategies, repeats, rows], `present` [strategies, repeats] (False: no such run).

    With one repeat, the examples alone are drawn. `tasks`: how many tasks `pooled` is averaged over.
    """  # fmt: skip
    strategies, repeats, rows = predicted.shape
    scores = resampled_scores(metric, labels, predicted.reshape(-1, rows), classes, draws, seeds.examples)
    over_examples = np.where(present, scores.reshape(draws, strategies, repeats), np.nan).mean(-1)
    whole = np.where(present, point_scores(metric, labels, predicted, classes), np.nan)
    means, pooled = (
        over_examples + drawn_repeats(whole, draws, seeds.repeats, freedom) for freedom in (repeats - 1, tasks * (repeats - 1))
    )
    return TaskSample(means, pooled)


def compare_pair(
    metric: str,
    labels: NDArray[np.int64],
    predicted_a: NDArray[np.int64],
    predicted_b: NDArray[np.int64],
    classes: int,
    draws: int,
    seeds: Seeds,
    tasks: int = 1,
) -> tuple[PairedResult, Array]:
    """`predicted_*` [repeats, rows], paired by repeat and row. Also the draws [draws] for an average over `tasks` tasks."""
    both = np.stack([predicted_a, predicted_b])
    sample = sample_task(metric, labels, both, np.ones(both.shape[:2], bool), classes, draws, seeds, tasks)
    differences = sample.differences(1)[:, 0]
    whole = point_scores(metric, labels, both, classes).mean(1)
    low, high = interval(differences)
    result = PairedResult(
        difference=float(whole[0] - whole[1]),
        low=float(low),
        high=float(high),
        p=float(two_sided_p(differences)),
        detectable=float(minimum_detectable_effect(differences)),
        mcnemar=mcnemar(predicted_a == labels, predicted_b == labels),
    )
    return result, sample.pooled[:, 0] - sample.pooled[:, 1]


def point_scores(metric: str, labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> Array:
    """Scores of predicted [..., rows] -> [...]."""
    flat = predicted.reshape(-1, predicted.shape[-1])
    hits, said, actual = class_indicators(labels, flat, classes)
    scores = METRICS[metric](hits.sum(0), said.sum(0), np.broadcast_to(actual.sum(0), said.sum(0).shape))
    return scores.reshape(predicted.shape[:-1])
