"""What rows and repeats leave open of a study's scores and of their differences, task by task and over tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from harness.report.predictions import TaskPredictions, load_predictions
from harness.report.selection import Selection
from harness.stats.bootstrap import Runs, freedom_of_sum, interval, resampled_scores, two_sided_p
from harness.stats.metrics import Array
from harness.stats.paired import TaskSample, difference_variances, drawn_sum, mcnemar, scored_sample, variance_of
from harness.stats.power import Spread, minimum_detectable_effect


@dataclass(frozen=True)
class Estimate:
    """A figure per strategy with its 95 % interval. NaN where it is withheld."""

    value: Array  # [labels]
    low: Array
    high: Array

    @classmethod
    def of(cls, value: Array, samples: Array) -> Estimate:
        low, high = interval(samples)
        return cls(value, low, high)

    @classmethod
    def none(cls, labels: int) -> Estimate:
        return cls(*(np.full(labels, np.nan) for _ in range(3)))


@dataclass(frozen=True)
class Sampled:
    """Bootstrap of every task. NaN where predictions are missing."""

    samples: tuple[TaskSample | None, ...]
    """[tasks], of all strategies."""
    scores: Array  # [strategies, tasks, repeats]
    tasks: tuple[str, ...]
    data_sets: NDArray[np.int64]
    """[tasks]: the same number for tasks that share their rows."""
    in_mean: NDArray[np.bool_]
    """[tasks] that enter averages over tasks."""
    draws: int

    @property
    def repeats(self) -> int:
        return int(self.scores.shape[-1])

    @property
    def sets(self) -> int:
        """Data sets in the mean."""
        return len(np.unique(self.data_sets[self.in_mean]))

    def restricted(self, in_mean: NDArray[np.bool_]) -> Sampled:
        """The same draws, with other tasks in the averages."""
        return replace(self, in_mean=in_mean)

    def on_tasks(self, first: int, second: int, level: float) -> tuple[Array, Array, Array, Array, Array]:
        """[tasks] each: ends of the 95 % interval of first minus second, its p, and what could have been seen at 5 % and at
        `level`.
        """
        columns = np.full((5, len(self.samples)), np.nan)
        for t, sample in enumerate(self.samples):
            if sample is not None:
                drawn = sample.contrast(first, second).draws
                columns[:2, t] = interval(drawn)
                columns[2, t] = two_sided_p(drawn)
                columns[3, t], columns[4, t] = (minimum_detectable_effect(drawn, alpha) for alpha in (0.05, level))
        return tuple(columns)  # type: ignore[return-value]

    def over_tasks(self, first: int, second: int | None = None, weights: Array | None = None) -> Array:
        """[draws] of the mean over the tasks that enter it; `weights` [tasks] add up to 1 (default: equal)."""
        weights = self.equal_weights if weights is None else weights
        used = np.flatnonzero(weights)
        samples = [sample for t in used if (sample := self.samples[t]) is not None]
        if not samples or len(samples) < len(used):
            return np.full(self.draws, np.nan)
        return drawn_sum([sample.contrast(first, second) for sample in samples], weights[used])

    @property
    def equal_weights(self) -> Array:
        return self.in_mean / max(int(self.in_mean.sum()), 1)

    def precision_weights(self, baseline: int, others: list[int]) -> Array:
        """[tasks]: of the tasks in the mean, 1 / variance of a difference to the baseline, the median over strategies. NaN
        where no task can be weighed.
        """
        precision = np.zeros(len(self.samples))
        for t in np.flatnonzero(self.in_mean):
            sample = self.samples[t]
            if sample is not None:
                found = np.array([_variance(sample, other, baseline) for other in others])
                found = found[np.isfinite(found) & (found > 0)]
                precision[t] = 1 / np.median(found) if len(found) else 0.0
        total = precision.sum()
        return precision / total if total > 0 else precision + np.nan

    def units(self, first: int, second: int) -> Array:
        """[data sets x repeats]: paired differences whose mean is the difference over tasks; NaN where a cell is missing.

        Tasks of one data set share examples, so that within a repeat they are one unit.
        """
        differences = (self.scores[first] - self.scores[second])[self.in_mean]
        sets = self.data_sets[self.in_mean]
        names = np.unique(sets)
        each = [differences[sets == name].sum(0) for name in names]
        return np.concatenate(each) * len(names) / len(sets) if len(sets) else np.zeros(0)

    def spread(self, first: int, second: int) -> Spread:
        """Of the mean over tasks of first minus second."""
        examples, repeats, freedom = (matrix[first, second] for matrix in self.variances)
        tasks = max(int(self.in_mean.sum()), 1)
        alike = [one for one in self._averaged if one is not None and one.alike(first, second)]
        unseen = sum((one.contrast(first, second).over_examples for one in alike), np.zeros(self.draws))
        return Spread(
            examples=float(examples + np.var(unseen) / tasks**2),
            repeat=float(repeats * self.repeats),
            tasks=tasks,
            tasks_of_interval=float(freedom / (self.repeats - 1)) if repeats > 0 else None,
            units=self.sets,
        )

    def alike(self, first: int, second: int) -> bool:
        """Whether no row of the tasks in the mean told the two apart in any run."""
        return bool(self._averaged) and all(one is not None and one.alike(first, second) for one in self._averaged)

    def one_student(self, first: int, second: int) -> bool:
        """Whether the two are the same student on each task of the mean, in every run."""
        return bool(self._averaged) and all(one is not None and one.one_student(first, second) for one in self._averaged)

    @property
    def _averaged(self) -> list[TaskSample | None]:
        return [self.samples[t] for t in np.flatnonzero(self.in_mean)]

    @cached_property
    def variances(self) -> tuple[Array, Array, Array]:
        """[labels, labels] of differences of the means over tasks: as examples differ, as repeats differ, and with how many
        degrees of freedom the latter are estimated.
        """
        used = self._averaged
        empty = np.full((len(self.scores),) * 2, np.nan)
        samples = [sample for sample in used if sample is not None]
        if not samples or len(samples) < len(used):
            return empty, empty, empty
        drawn = np.mean([sample.over_examples for sample in samples], axis=0)
        chance = sum(sample.chance_covariance for sample in samples) / len(samples) ** 2
        repeats = np.stack([difference_variances(sample.repeats_covariance) for sample in samples]) / len(samples) ** 2
        examples = difference_variances(np.atleast_2d(np.cov(drawn.T)) - chance)
        return examples, repeats.sum(0), freedom_of_sum(repeats, self.repeats - 1)


def sample_tasks(
    selection: Selection,
    predictions: Mapping[str, TaskPredictions | None],
    baseline: int | None,
    in_mean: NDArray[np.bool_],
    draws: int,
) -> tuple[Sampled, Array]:
    """All strategies and tasks of a study; and McNemar's p [labels, tasks] to the baseline, of one repeat: NaN with more."""
    samples = sample_predictions(predictions, draws)
    p_mcnemar = np.full(selection.scores.shape[:2], np.nan)
    for t, found in enumerate(predictions.values()):
        if found is None or baseline is None or selection.repeats > 1 or not found.present[baseline].all():
            continue
        right = found.predicted[:, 0] == found.labels
        for s in np.flatnonzero(found.present.all(1)):
            if s != baseline:
                p_mcnemar[s, t] = mcnemar(right[s], right[baseline]).p
    return Sampled(samples, selection.scores, selection.tasks, data_sets(selection), in_mean, draws), p_mcnemar


def sample_predictions(predictions: Mapping[str, TaskPredictions | None], draws: int) -> tuple[TaskSample | None, ...]:
    """Of each task. Tasks of the same rows are resampled together, in the time of one."""
    together: dict[tuple[int, int], list[str]] = {}
    for task, found in predictions.items():
        if found is not None:
            together.setdefault((found.seeds.examples, len(found.labels)), []).append(task)
    made: dict[str, TaskSample] = {}
    for (seed, _), names in together.items():
        group = [found for name in names if (found := predictions[name]) is not None]
        runs = [Runs(one.metric, one.labels, one.predicted.reshape(-1, len(one.labels)), one.classes) for one in group]
        for name, one, own, drawn in zip(names, group, runs, resampled_scores(runs, draws, seed), strict=True):
            made[name] = replace(scored_sample(own, drawn, one.present, one.seeds), students=one.students)
    return tuple(made.get(task) for task in predictions)


def further_splits(selection: Selection, baseline: int | None, draws: int) -> dict[str, tuple[Estimate, Estimate]]:
    """Of what scores are not of, "sst2 validation" -> every strategy's score and its difference to the baseline."""
    found = {}
    count = len(selection.labels)
    for task in selection.tasks:
        for split in selection.further_splits(task):
            (sample,) = sample_predictions({task: load_predictions(selection, task, split=split)}, draws)
            if sample is None:
                continue
            against = Estimate.none(count)
            if baseline is not None:
                drawn = np.stack([sample.contrast(i, baseline).draws for i in range(count)], axis=1)
                against = Estimate.of((sample.scores - sample.scores[baseline]).mean(-1), drawn)
            found[f"{task} {split}"] = Estimate(sample.scores.mean(-1), *sample.intervals), against
    return found


def data_sets(selection: Selection) -> NDArray[np.int64]:
    """[tasks]: `Selection.data_sets`."""
    return np.array(selection.data_sets)


def _variance(sample: TaskSample, first: int, second: int) -> float:
    matrix = sample.examples_covariance - sample.chance_covariance
    return max(variance_of(matrix, first, second), 0.0) + variance_of(sample.repeats_covariance, first, second)
