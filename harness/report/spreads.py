"""How much differences to plain KD vary in an earlier store, task by task: what a study to come can count on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.report.admission import admitted
from harness.report.predictions import load_predictions
from harness.report.references import find_strategy
from harness.report.sampled import sample_tasks
from harness.report.selection import select
from harness.stats.paired import variance_of
from harness.study.comparisons import BASELINE

DRAWS = 2000
"""Enough for a variance."""


@dataclass(frozen=True)
class TaskSpread:
    """Of a difference to plain KD, the median over strategies; fractions squared."""

    store: Path
    rows: int
    examples: float
    """Variance by the rows that were reported on, times their number."""
    repeat: float
    """Variance of one repeat."""
    in_mean: bool
    """Plain KD and teacher were above the majority class."""


def task_spreads(stores: Iterable[Path]) -> dict[str, TaskSpread]:
    """Task -> spread, from the first store that has plain KD, another strategy and two repeats of it. Others are left out."""
    found: dict[str, TaskSpread] = {}
    for path in stores:
        selection = select(path)
        baseline = find_strategy(selection, BASELINE)
        if baseline is None or len(selection.labels) < 2 or selection.repeats < 2:
            continue
        admission = admitted(selection, baseline)
        predictions = {task: load_predictions(selection, task) for task in selection.tasks}
        sampled, _ = sample_tasks(selection, predictions, baseline, np.ones(len(selection.tasks), np.bool_), DRAWS)
        for task, sample, inside in zip(selection.tasks, sampled.samples, admission.in_mean, strict=True):
            if sample is None or task in found:
                continue
            examples, repeats = sample.examples_covariance - sample.chance_covariance, sample.repeats_covariance
            others = [i for i in range(len(selection.labels)) if i != baseline]
            pairs = np.array([[variance_of(matrix, i, baseline) for matrix in (examples, repeats)] for i in others])
            pairs = pairs[np.isfinite(pairs).all(1)]
            split = selection.headline_split(task)
            reports = [record.report for record in selection.records if record.spec.task.name == task]
            rows = max((report[split].rows for report in reports if split in report), default=0)
            if len(pairs) and rows:
                by_rows, by_repeats = np.median(np.maximum(pairs, 0.0), axis=0)
                found[task] = TaskSpread(path, rows, float(by_rows) * rows, float(by_repeats) * selection.repeats, bool(inside))
    return found
