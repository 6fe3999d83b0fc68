"""GLUE's seven classification tasks, a study's own tasks, and their metrics."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from harness.errors import StudyError
from harness.study import TaskSpec

_ENTAILMENT = ["entailment", "not_entailment"]

GLUE: dict[str, TaskSpec] = {
    task.name: task
    for task in (
        TaskSpec(name="cola", text=["sentence"], labels=["unacceptable", "acceptable"], metrics=["matthews", "accuracy"]),
        TaskSpec(name="sst2", text=["sentence"], labels=["negative", "positive"], metrics=["accuracy"]),
        TaskSpec(
            name="mrpc", text=["sentence1", "sentence2"], labels=["not_equivalent", "equivalent"], metrics=["f1", "accuracy"]
        ),
        TaskSpec(
            name="qqp", text=["question1", "question2"], labels=["not_duplicate", "duplicate"], metrics=["accuracy", "f1"]
        ),
        TaskSpec(name="mnli", text=["premise", "hypothesis"], labels=["entailment", "neutral", "contradiction"]),
        TaskSpec(name="qnli", text=["question", "sentence"], labels=_ENTAILMENT),
        TaskSpec(name="rte", text=["sentence1", "sentence2"], labels=_ENTAILMENT),
    )
}
"""Columns and label ids as in the hub's `nyu-mll/glue`. STS-B is a regression and WNLI has 71 report rows: the usual seven."""

_OFFICIAL_ROWS = {
    "cola": (8_551, 1_043),
    "sst2": (67_349, 872),
    "mrpc": (3_668, 408),
    "qqp": (363_846, 40_430),
    "mnli": (392_702, 9_815),
    "qnli": (104_743, 5_463),
    "rte": (2_490, 277),
}


def resolve_task(entry: str | TaskSpec) -> TaskSpec:
    """A built-in task by name, or the study's own. Raises StudyError with the nearest name."""
    if isinstance(entry, TaskSpec):
        return entry
    try:
        return resolve_built_in(entry)
    except ValueError as error:
        raise StudyError(f"{error} A task of your own is a mapping with name, text, labels, files.") from error


def resolve_built_in(name: str) -> TaskSpec:
    """One of GLUE's tasks. Raises ValueError with the nearest name."""
    if name in GLUE:
        return GLUE[name]
    near = difflib.get_close_matches(str(name).lower(), GLUE, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown task {name!r}.{hint} Built in: {', '.join(GLUE)}.")


def official_rows(name: str) -> dict[str, int]:
    """Rows of GLUE's own splits; empty for a task that is not GLUE's."""
    if name not in _OFFICIAL_ROWS:
        return {}
    train, validation = _OFFICIAL_ROWS[name]
    extra = {"validation_mismatched": 9_832} if name == "mnli" else {}
    return {"train": train, "validation": validation, **extra}


def compute_metrics(metrics: Sequence[str], labels: Any, predictions: Any, classes: int) -> dict[str, float]:
    """Metrics by name, in [0, 1] (matthews in [-1, 1]), of int arrays [rows] for a task of `classes` classes.

    `f1` is of class 1 for two classes, as in GLUE, and for more the mean over the classes that occur.
    """
    import numpy as np
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    found = {}
    for metric in metrics:
        if metric == "accuracy":
            found[metric] = float(accuracy_score(labels, predictions))
        elif metric == "matthews":
            # sklearn warns of the undefined case; the convention is 0
            constant = len(np.unique(labels)) == 1 or len(np.unique(predictions)) == 1
            found[metric] = 0.0 if constant else float(matthews_corrcoef(labels, predictions))
        elif metric == "f1":
            average = "binary" if classes == 2 else "macro"
            found[metric] = float(f1_score(labels, predictions, average=average, zero_division=0.0))
        else:
            raise ValueError(f"unknown metric {metric!r}")
    return found


def task_metrics(task: TaskSpec, labels: Any, predictions: Any) -> dict[str, float]:
    """All of a task's metrics."""
    return compute_metrics(task.metrics, labels, predictions, len(task.labels))
