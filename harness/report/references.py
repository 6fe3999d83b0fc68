"""What a table's references are, and what it says where they are missing or too close to tell."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.records import Score
from harness.report.selection import Selection
from harness.stats.metrics import Array
from harness.study.comparisons import BASELINE, REFERENCES

STUDENT_ALONE = "ce_only"


def find_strategy(selection: Selection, strategy: str) -> int | None:
    """The label that is the strategy's own name, else the first label of that strategy."""
    if strategy in selection.labels and selection.strategies[strategy] == strategy:
        return selection.labels.index(strategy)
    return next((i for i, label in enumerate(selection.labels) if selection.strategies[label] == strategy), None)


def teacher_scores(selection: Selection) -> Array:
    """[tasks], the headline score of the best teacher; NaN where there is none."""
    best = dict.fromkeys(selection.tasks, float("nan"))
    left_out = no_references(selection)
    for record in selection.records:
        task = record.spec.task
        # a trial that failed has no teachers' scores
        for teacher, scores in zip(record.spec.teachers, record.teacher_report, strict=False):
            if (split := record.spec.data.headline_split) in scores and task.name in best and teacher.name not in left_out:
                best[task.name] = float(np.fmax(best[task.name], scores[split].metrics[task.headline_metric]))
    return np.array([best[task] for task in selection.tasks])


def reference_notes(
    selection: Selection,
    baseline: int | None,
    alone: int | None,
    usable: NDArray[np.bool_],
    teacher: Array,
    student: Array,
) -> list[str]:
    """`usable`: tasks on which scores can be normalised; `teacher` and `student`: [tasks], the best teacher's score and that of
    the student alone.
    """
    notes = []
    if baseline is None:
        notes.append(f"No {BASELINE} was run: nothing is compared with plain KD.")
    if alone is None:
        notes.append(f"No {STUDENT_ALONE} was run: there is no normalised score.")
    if left_out := no_references(selection):
        notes.append(
            f"By the study's choice (reference: false), {', '.join(left_out)} "
            f"{'is' if len(left_out) == 1 else 'are'} no reference"
            + ("." if np.isfinite(teacher).any() else ", and there is no other teacher's score: there is no normalised score.")
        )
    close = [
        task for task, good, gap in zip(selection.tasks, usable, teacher - student, strict=True) if not good and gap < 0.01
    ]
    if close:
        notes.append(
            f"The teacher is less than a point above the student alone on {', '.join(close)}: "
            f"{'it does' if len(close) == 1 else 'they do'} not enter normalised scores."
        )
    if selection.manifest.get("protocol_warnings"):
        return notes + [_sentence(warning) for warning in selection.manifest["protocol_warnings"]]
    run = set(selection.strategies.values())
    if missing := [name for name in REFERENCES if name not in run]:
        notes.append(f"The protocol's references are not all run, the table is incomplete: {', '.join(missing)}.")
    return notes


def _sentence(text: str) -> str:
    text = text.replace("so the table will be marked incomplete", "so this table is incomplete")
    return text[:1].upper() + text[1:].rstrip(".") + "."


def no_references(selection: Selection) -> list[str]:
    """Names of the teachers that the study keeps out of the references, as the manifest has it now."""
    return [str(teacher.get("name")) for teacher in _teachers(selection) if teacher.get("reference") is False]


def trained_elsewhere(selection: Selection) -> str:
    """A sentence with their scores on the rows that they were to be held out of; empty where the study has none."""
    names = [str(one.get("name")) for one in _teachers(selection) if one.get("fine_tuned") or one.get("outputs")]
    if not names:
        return ""
    said = []
    for name in names:
        found = [f"{task} {text}" for task in selection.tasks if (text := _scores(selection, task, name))]
        said.append(f"{name} ({'; '.join(found)})" if found else name)
    return (
        f"Trained elsewhere, and may have seen meta, select and report rows: {', '.join(said)}. A score on the training rows "
        "that is far above the others speaks for it."
    )


def _scores(selection: Selection, task: str, name: str) -> str:
    """E.g. "98.1 on fit, 60.2 on select, 59.8 on validation", in points of the headline metric."""
    for record in selection.records:
        if record.spec.task.name != task:
            continue
        for teacher, scores in zip(record.spec.teachers, record.teacher_report, strict=False):
            if teacher.name == name:
                metric = record.spec.task.headline_metric
                parts = ("fit", "select", record.spec.data.headline_split)
                return ", ".join(f"{_points(scores[part], metric)} on {part}" for part in parts if part in scores)
    return ""


def _points(score: Score, metric: str) -> str:
    return f"{100 * score.metrics[metric]:.1f}"


def _teachers(selection: Selection) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = selection.manifest.get("study", {}).get("models", {}).get("teachers", [])
    return found
