"""What is looked at beside scores: measures of probabilities, scores of single classes, gains where labels were flipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.report.predictions import TaskPredictions, load_teacher
from harness.report.sampled import Estimate, Sampled, data_sets
from harness.report.selection import Selection
from harness.stats.measures import MEASURES, sample_measures
from harness.stats.metrics import Array, class_scores

DRAWS = 2000
"""Of rows: an interval's ends to a thirtieth of its width. No test rests on them."""
NO_TEACHER = "Agreement with the teacher: not stored, as of teachers this store keeps scores alone."
TEACHER = "The teacher is the mean of the probabilities of all teachers that strategies of the task learn from."

DIGITS = 9
"""After the point. Sums of probabilities differ in their last bits between processors, and with the number of threads."""


@dataclass(frozen=True)
class Measured:
    """One measure. A strategy with a missing or failed cell has none: what failed said no probabilities."""

    value: Estimate  # [labels], over the tasks in the mean
    difference: Estimate
    """To plain KD; NaN where the study lacks it. Explored: it carries no mark."""
    on_tasks: Array  # [labels, tasks], mean over repeats


def measure(
    selection: Selection,
    predictions: Mapping[str, TaskPredictions | None],
    baseline: int | None,
    in_mean: NDArray[np.bool_],
    draws: int = DRAWS,
) -> dict[str, Measured]:
    """Every measure by name, those that the store keeps no probabilities for left out: of students, or of teachers.

    `predictions`: task -> with probabilities.
    """
    sampled = [
        None
        if found is None or found.probabilities is None
        else sample_measures(
            found.labels, np.nan_to_num(found.probabilities), _said(found), draws, found.seeds,
            load_teacher(selection, task, found.ids),
        )
        for task, found in ((task, predictions[task]) for task in selection.tasks)
    ]  # fmt: skip
    if all(one is None for one in sampled):
        return {}
    labels = range(len(selection.labels))
    made = {}
    for name in MEASURES:
        samples = tuple(None if one is None else one.get(name) for one in sampled)
        if all(one is None for one in samples):
            continue
        missing = np.full(selection.scores.shape[::2], np.nan)
        scores = np.stack([missing if one is None else one.scores for one in samples], axis=1)
        study = Sampled(samples, scores, selection.tasks, data_sets(selection), in_mean, draws)
        means = scores[:, in_mean].mean((1, 2))
        difference = Estimate.none(len(labels))
        if baseline is not None:
            to_plain = np.stack([study.over_tasks(i, baseline) for i in labels], axis=1)
            difference = Estimate.of(means - means[baseline], to_plain)
        value = Estimate.of(means, np.stack([study.over_tasks(i) for i in labels], axis=1))
        made[name] = Measured(_rounded(value), _rounded(difference), np.round(scores.mean(-1), DIGITS))
    return made


def _rounded(found: Estimate) -> Estimate:
    return Estimate(*(np.round(ends, DIGITS) for ends in (found.value, found.low, found.high)))


def _said(found: TaskPredictions) -> NDArray[np.bool_]:
    """[labels, repeats] that are there and said probabilities."""
    assert found.probabilities is not None
    return np.asarray(found.present & np.isfinite(found.probabilities).all((-2, -1)))


@dataclass(frozen=True)
class ClassScores:
    """Of one task, means over repeats [labels, classes]; NaN where a repeat is missing."""

    names: tuple[str, ...]
    recall: Array
    f1: Array


def scores_of_classes(
    selection: Selection, predictions: Mapping[str, TaskPredictions | None]
) -> dict[str, ClassScores]:  # fmt: skip
    """Task -> scores of its classes."""
    made = {}
    for task, found in predictions.items():
        if found is not None:
            recall, f1 = (
                np.where(np.asarray(found.present.all(1))[:, None], scores.mean(1), np.nan)
                for scores in class_scores(found.labels, found.predicted, found.classes)
            )
            made[task] = ClassScores(tuple(selection.task_spec(task).labels), recall, f1)
    return made


def gains_by_noise(sampled: Sampled, selection: Selection, baseline: int | None) -> dict[str, Estimate]:
    """Share of flipped training labels, e.g. "20%" -> gain over plain KD on those tasks of the mean; none where all tasks have
    the same share.
    """
    levels = [selection.label_noise(task) for task in selection.tasks]
    if baseline is None or len(set(levels)) < 2:
        return {}
    made = {}
    for level in sorted(set(levels)):
        inside = sampled.in_mean & np.array([other == level for other in levels], np.bool_)
        if inside.any():
            part = sampled.restricted(inside)
            drawn = np.stack([part.over_tasks(i, baseline) for i in range(len(selection.labels))], axis=1)
            means = sampled.scores[:, inside].mean((1, 2))
            made[f"{100 * level:.4g}%"] = Estimate.of(means - means[baseline], drawn)
    return made


def flips_found(selection: Selection) -> Array:
    """[labels]: AUROC with which a low weight on the label term finds flipped labels, at the kept epoch, mean over tasks and
    repeats; NaN where nothing was flipped or all samples weigh the same.
    """
    made = np.full(len(selection.labels), np.nan)
    for i, label in enumerate(selection.labels):
        found = []
        for row in selection.of(label):
            if row.record is not None and row.record.epochs:
                epoch = row.record.epochs[-1 if row.record.best_epoch is None else row.record.best_epoch]
                auroc = epoch.weights["ce"].flipped_auroc if "ce" in epoch.weights else None
                found += [] if auroc is None else [auroc]
        if found and set(found) != {0.5}:
            made[i] = float(np.mean(found))
    return made
