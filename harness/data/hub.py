"""GLUE from the Hugging Face hub."""

from __future__ import annotations

from typing import Any

from harness.data.columns import rows_from_frame
from harness.data.rows import Rows
from harness.data.source import TaskData
from harness.errors import DataError
from harness.study import DataSpec, TaskSpec

REPORT_SPLITS = {
    "validation": "validation",
    "validation_matched": "validation",
    "validation_mismatched": "validation_mismatched",
}
"""A split's name on the hub -> its name here."""


def load(task: TaskSpec, spec: DataSpec) -> TaskData:
    """Rows of `spec.hub_name` (a hub name, or a local copy of the repository). Raises DataError where it cannot be had."""
    import datasets

    try:
        loaded: Any = datasets.load_dataset(spec.hub_name, task.name, revision=spec.hub_revision)
    except Exception as error:  # the library raises a dozen kinds, and wraps the network's
        raise DataError(
            f"the data set {spec.hub_name!r} (configuration {task.name!r}) cannot be had from the hub: "
            f"{type(error).__name__}: {error}. Without a network, read GLUE from a folder: "
            "--set data.source=directory --set data.path=FOLDER"
        ) from error

    def rows(split: str) -> Rows:
        return rows_from_frame(loaded[split].to_pandas(), task, f"{spec.hub_name}/{task.name}, split {split}")

    if "train" not in loaded or not set(REPORT_SPLITS) & set(loaded):
        raise DataError(f"{spec.hub_name}/{task.name}: needs the splits train and validation, found {list(loaded)}")
    report = {ours: rows(theirs) for theirs, ours in REPORT_SPLITS.items() if theirs in loaded}
    return TaskData(rows("train"), report, origin=f"{spec.hub_name} on the hub")
