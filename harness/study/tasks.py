"""GLUE's seven classification tasks, a study's own tasks, and their metrics."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from harness.errors import StudyError
from harness.study.section import Section


class TaskSpec(Section):
    """A text-classification task. GLUE's seven are built in (`harness.study.tasks`); a study may define its own."""

    first_fields = frozenset({"name", "text", "label", "labels", "metrics", "headline", "files", "rows_of"})

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    text: list[str] = Field([], max_length=2)
    """One or two text columns. For a data set of the hub (`data.dataset`) found where not given, as `label` and `labels`."""
    label: str = "label"
    labels: list[str] = []
    """Names of the classes, in the order of their ids. A file may hold ids or names."""
    metrics: list[Literal["accuracy", "f1", "matthews"]] = Field(default=["accuracy"], min_length=1)
    headline: Literal["accuracy", "f1", "matthews"] | None = None
    """The metric that selection and the leaderboard use; the first one where not given."""
    files: dict[str, str] = {}
    """For a task of your own: `train`, `validation` and optionally further report splits -> a .parquet, .csv, .tsv, .json or
    .jsonl file. Relative paths start from the study file."""
    rows_of: str | None = None
    """Instead of `text`, `labels` and `files`: a built-in task whose rows, columns and metrics are used under this task's name,
    e.g. `{name: sst2_noisy, rows_of: sst2}` beside sst2, with `data_per_task` to say what differs."""

    @model_validator(mode="before")
    @classmethod
    def _as_the_built_in_task(cls, value: Any) -> Any:
        if not isinstance(value, dict) or value.get("rows_of") is None:
            return value
        return {**resolve_built_in(value["rows_of"]).model_dump(exclude={"name", "rows_of"}), **value}

    @property
    def source_name(self) -> str:
        """What the task's rows are called where they come from."""
        return self.rows_of or self.name

    @property
    def headline_metric(self) -> str:
        return self.headline or self.metrics[0]

    @model_validator(mode="after")
    def _check(self) -> TaskSpec:
        if self.headline_metric not in self.metrics:
            raise ValueError(f"headline {self.headline!r} is not among metrics {self.metrics}")
        if self.files and self.rows_of:
            raise ValueError("give either `files` or `rows_of`")
        if self.files:
            check_splits("files", self.files)
        if len(set(self.labels)) != len(self.labels) or len(self.labels) == 1:
            raise ValueError(f"labels: two classes or more, each once, got {self.labels}")
        return self


def check_splits(key: str, given: Mapping[str, str]) -> None:
    """Raises ValueError for names of splits that a study cannot have under `key`."""
    if not {"train", "validation"} <= set(given):
        raise ValueError(f"{key} needs `train` and `validation`, got {sorted(given)}")
    for name in given:
        if name in _ROLES or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise ValueError(
                f"{key} cannot call a split {name!r}; allowed are train, validation and further names of lower-case letters, "
                f"digits and underscores that are no role ({', '.join(_ROLES)})"
            )


_ROLES = ("fit", "meta", "report", "select", "teacher", "train_surplus")


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
        raise StudyError(
            f"{error} A task of your own is a mapping with name, text, labels, files; for a data set of the hub say "
            "`data: {dataset: OWNER/NAME}`."
        ) from error


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
