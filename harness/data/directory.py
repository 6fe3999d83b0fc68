"""GLUE from a folder: Parquet files as on the hub, or the original GLUE download."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from harness.data.columns import rows_from_frame
from harness.data.hub import REPORT_SPLITS
from harness.data.rows import Rows
from harness.data.source import TaskData
from harness.data.tables import read_plain_tsv, read_table
from harness.errors import DataError
from harness.study import DataSpec, TaskSpec

ORIGINAL_FOLDERS = {
    "cola": "CoLA",
    "sst2": "SST-2",
    "mrpc": "MRPC",
    "qqp": "QQP",
    "mnli": "MNLI",
    "qnli": "QNLI",
    "rte": "RTE",
}
_COLA_COLUMNS = ["source", "label", "author_mark", "sentence"]
_ORIGINAL_COLUMNS = {
    "mrpc": {"#1 String": "sentence1", "#2 String": "sentence2", "Quality": "label"},
    "qqp": {"is_duplicate": "label"},
    "mnli": {"sentence1": "premise", "sentence2": "hypothesis", "gold_label": "label"},
}


def load(task: TaskSpec, spec: DataSpec) -> TaskData:
    """Rows of `<path>/<task>/<split>.parquet`, `<path>/<task>/<split>-00000-of-00001.parquet` or `<path>/<GLUE folder>/*.tsv`.

    Raises DataError.
    """
    if spec.path is None:
        raise DataError("data.source is `directory`, which needs data.path: the folder with one folder for each task")
    root = Path(spec.path)
    if not root.is_dir():
        raise DataError(f"data.path {spec.path!r}: no such folder (looked for {root.resolve()})")
    if (root / task.name).is_dir():
        return _load_parquet(task, root / task.name)
    original = root / ORIGINAL_FOLDERS[task.name]
    if original.is_dir():
        return _load_original(task, original, spec.broken_rows == "drop")
    raise DataError(
        f"{root}: no folder for {task.name}; looked for {task.name}/ (Parquet) and {original.name}/ (GLUE's own TSV)"
    )


def _load_parquet(task: TaskSpec, folder: Path) -> TaskData:
    found = {split: file for split in ("train", *REPORT_SPLITS) if (file := _parquet(folder, split)) is not None}
    if "train" not in found or len(found) == 1:
        raise DataError(
            f"{folder}: needs train.parquet and validation.parquet (for MNLI validation_matched.parquet), or the hub's "
            f"train-00000-of-00001.parquet and so on; found {sorted(file.name for file in folder.iterdir())}"
        )

    def rows(split: str) -> Rows:
        return rows_from_frame(read_table(found[split]), task, found[split])

    report = {ours: rows(theirs) for theirs, ours in REPORT_SPLITS.items() if theirs in found}
    return TaskData(rows("train"), report, origin=f"Parquet files in {folder.name}/")


def _parquet(folder: Path, split: str) -> Path | None:
    names = (f"{split}.parquet", f"{split}-00000-of-00001.parquet")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _load_original(task: TaskSpec, folder: Path, drop_broken: bool) -> TaskData:
    splits = {"validation": "dev.tsv"}
    if task.name == "mnli":
        splits = {"validation": "dev_matched.tsv"}
        if (folder / "dev_mismatched.tsv").is_file():
            splits["validation_mismatched"] = "dev_mismatched.tsv"
    report = {split: _original_rows(task, folder / name, drop_broken) for split, name in splits.items()}
    return TaskData(_original_rows(task, folder / "train.tsv", drop_broken), report, origin=f"GLUE's own {folder.name}/ folder")


def _original_rows(task: TaskSpec, file: Path, drop_broken: bool) -> Rows:
    frame: pd.DataFrame = read_plain_tsv(file, _COLA_COLUMNS if task.name == "cola" else None, drop_broken)
    frame = frame.rename(columns=_ORIGINAL_COLUMNS.get(task.name, {}))
    # the download's own `index` columns have gaps and repeats; a line number is unique
    return rows_from_frame(frame, task, file)
