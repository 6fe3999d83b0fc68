"""GLUE from the Hugging Face hub."""

from __future__ import annotations

from harness.data.columns import rows_from_frame
from harness.data.hub_task import fetch, with_label_names
from harness.data.rows import Rows, TaskData
from harness.errors import DataError
from harness.study.data import DataSpec
from harness.study.tasks import TaskSpec


def report_splits(task: str) -> dict[str, tuple[str, ...]]:
    """Our name of each report split -> the names that it may have on the hub and in folders."""
    if task == "mnli":
        return {"validation": ("validation_matched", "validation"), "validation_mismatched": ("validation_mismatched",)}
    return {"validation": ("validation",)}


def load(task: TaskSpec, spec: DataSpec) -> TaskData:
    """Rows of `spec.hub_name` (a hub name, or a local copy of the repository). Raises DataError where it cannot be had."""
    try:
        loaded = fetch(spec.hub_name, task.name, spec.hub_revision)
    except DataError as error:
        raise DataError(
            f"{error}. Without a network, read GLUE from a folder: --set data.source=directory --set data.path=FOLDER"
        ) from error

    def rows(split: str) -> Rows:
        part = loaded[split]
        origin = f"{spec.hub_name}/{task.name}, split {split}"
        return rows_from_frame(with_label_names(part.to_pandas(), part.features, task).rename_axis("row"), task, origin)

    found = {ours: next((name for name in names if name in loaded), None) for ours, names in report_splits(task.name).items()}
    if "train" not in loaded or found["validation"] is None:
        raise DataError(f"{spec.hub_name}/{task.name}: needs the splits train and validation, found {list(loaded)}")
    report = {ours: rows(theirs) for ours, theirs in found.items() if theirs is not None}
    return TaskData(rows("train"), report, origin=f"{spec.hub_name} on the hub")
