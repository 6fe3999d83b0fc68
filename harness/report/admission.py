"""Which tasks a mean is taken over: those on which something has been learned, as `select` tells."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.records import Score
from harness.report.references import no_references
from harness.report.selection import Selection

ERRORS = 2.0
"""Standard errors above the majority class."""
SELECT = "select"


@dataclass(frozen=True)
class Admission:
    in_mean: NDArray[np.bool_]  # [tasks]
    said: str
    """For the caption; empty where all tasks are in the mean."""


def admitted(selection: Selection, baseline: int | None) -> Admission:
    """A task enters the mean if the best teacher and plain KD are above the majority class by twice the standard error.

    Plain KD by its scores on `select`; the teacher and the majority class there too, where the store has them (older ones lack
    the latter), else on the report rows. What is not known keeps no task out. Where no task is left, all are in the mean, and
    the caption says so.
    """
    plain = None if baseline is None else selection.labels[baseline]
    why = {task: reason for task in selection.tasks if (reason := _reason(selection, task, plain))}
    if not why:
        return Admission(np.ones(len(selection.tasks), bool), "")
    rule = f"above the majority class by {ERRORS:g} standard errors (of the rows of select)"
    if len(why) == len(selection.tasks):
        said = f"On no task are teacher and plain KD {rule}: the mean over all tasks says little of strategies."
        return Admission(np.ones(len(selection.tasks), bool), said)
    listed = "; ".join(f"{task} ({reason})" for task, reason in why.items())
    said = f"A task is in the mean if teacher and plain KD are {rule}. Shown, and in no mean: {listed}."
    return Admission(np.array([task not in why for task in selection.tasks]), said)


def _reason(selection: Selection, task: str, plain: str | None) -> str:
    """Why the task tells nothing; empty where it does, or where that is not known."""
    records = [record for record in selection.records if record.spec.task.name == task]
    metric = selection.task_spec(task).headline_metric
    majority = next((record.majority for record in records if record.majority), {})
    headline = selection.headline_split(task)
    if headline not in majority:
        return ""
    floors = {split: majority.get(split, majority[headline]).metrics[metric] for split in (SELECT, headline)}
    rows = selection.manifest.get("rows", {}).get(task, {}).get(SELECT)
    if plain is not None and rows:
        chosen = [row for row in selection.of(plain, task) if row.record is not None and row.state in ("ok", "failed")]
        scores = [row.record.objective for row in chosen if row.record is not None and row.record.objective is not None]
        if len(scores) < len(chosen):
            return "plain KD failed"
        if scores and (low := _too_low(float(np.mean(scores)), floors[SELECT], metric, rows)):
            return f"plain KD {low}"
    split, teacher = _best_teacher(selection, task, metric)
    if teacher is not None and (low := _too_low(teacher.metrics[metric], floors[split], metric, teacher.rows)):
        return f"teacher {low}"
    return ""


def _too_low(score: float, floor: float, metric: str, rows: int) -> str:
    if score - floor > ERRORS * standard_error(metric, score, rows):
        return ""
    return f"{100 * score:.1f}, majority class {100 * floor:.1f}"


def standard_error(metric: str, score: float, rows: int) -> float:
    """Of a score on so many rows: binomial; of Matthews' correlation about 0, 1 / root of the rows."""
    return math.sqrt((1.0 if metric == "matthews" else score * (1 - score)) / rows)


def _best_teacher(selection: Selection, task: str, metric: str) -> tuple[str, Score | None]:
    """With the split that the score is of."""
    left_out = no_references(selection)
    found, split = [], selection.headline_split(task)
    for record in selection.records:
        if record.spec.task.name == task:
            # a trial that failed has no teachers' scores
            for teacher, scores in zip(record.spec.teachers, record.teacher_report, strict=False):
                if teacher.name not in left_out and (there := SELECT if SELECT in scores else split) in scores:
                    found.append((there, scores[there]))
    return max(found, key=lambda one: one[1].metrics[metric], default=(split, None))
