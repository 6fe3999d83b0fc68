"""GLUE from the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.data.columns import rows_from_frame
from harness.data.rows import Rows, TaskData
from harness.errors import DataError
from harness.hub import snapshot
from harness.study.schema import DataSpec
from harness.study.tasks import TaskSpec

if TYPE_CHECKING:
    import pandas as pd


def report_splits(task: str) -> dict[str, tuple[str, ...]]:
    """Our name of each report split -> the names that it may have on the hub and in folders."""
    if task == "mnli":
        return {"validation": ("validation_matched", "validation"), "validation_mismatched": ("validation_mismatched",)}
    return {"validation": ("validation",)}


def load(task: TaskSpec, spec: DataSpec) -> TaskData:
    """Rows of `spec.hub_name` (a hub name, or a local copy of the repository). Raises DataError where it cannot be had.

    `datasets` reads a snapshot, and asks nobody: asked itself without a network, it takes whichever revision it saw last.
    """
    import datasets

    try:
        loaded: Any = datasets.load_dataset(str(_folder(task.name, spec)), task.name)
    except Exception as error:  # the library raises a dozen kinds
        raise DataError(
            f"the data set {spec.hub_name!r} (configuration {task.name!r}) cannot be had from the hub: "
            f"{' '.join(str(error).split()) or type(error).__name__}. Without a network, read GLUE from a folder: "
            "--set data.source=directory --set data.path=FOLDER"
        ) from error

    def rows(split: str) -> Rows:
        part = loaded[split]
        origin = f"{spec.hub_name}/{task.name}, split {split}"
        return rows_from_frame(_with_label_names(part.to_pandas(), part.features, task).rename_axis("row"), task, origin)

    found = {ours: next((name for name in names if name in loaded), None) for ours, names in report_splits(task.name).items()}
    if "train" not in loaded or found["validation"] is None:
        raise DataError(f"{spec.hub_name}/{task.name}: needs the splits train and validation, found {list(loaded)}")
    report = {ours: rows(theirs) for ours, theirs in found.items() if theirs is not None}
    return TaskData(rows("train"), report, origin=f"{spec.hub_name} on the hub")


def _folder(task: str, spec: DataSpec) -> Path:
    """The repository's card and the task's files. Raises HubError."""
    local = Path(spec.hub_name).expanduser()
    if local.is_dir():
        return local
    cards, code = ["*.md", "*.json", "*.yaml"], ["*.py"]
    found = snapshot("dataset", spec.hub_name, spec.hub_revision, [*cards, f"*{task}*"], code)
    if not any(path.is_file() and path.suffix not in (".md", ".json", ".yaml") for path in found.rglob("*")):
        return snapshot("dataset", spec.hub_name, spec.hub_revision, ["*"], code)  # its files are not named after its tasks
    return found


def _with_label_names(frame: pd.DataFrame, features: Any, task: TaskSpec) -> pd.DataFrame:
    """Label ids as names where the data set says what its ids mean: another copy of GLUE may count them otherwise."""
    names = getattr(features.get(task.label), "names", None)
    if names is None or names == task.labels:
        return frame
    by_id = dict(enumerate(names))
    return frame.assign(**{task.label: [by_id.get(value, value) for value in frame[task.label]]})
