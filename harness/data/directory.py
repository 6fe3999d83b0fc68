"""GLUE from a folder: Parquet files as on the hub, or the original GLUE download."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from harness.data.columns import rows_from_frame
from harness.data.hub import report_splits
from harness.data.rows import Rows, TaskData
from harness.data.tables import LEFT_OUT, read_plain_tsv, read_table
from harness.errors import DataError
from harness.study.data import DataSpec
from harness.study.tasks import TaskSpec

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
    # told apart by what they hold: where names have no case, `mrpc` and `MRPC` are one folder
    folders = [folder for folder in (root / task.name, root / ORIGINAL_FOLDERS[task.name]) if folder.is_dir()]
    for folder in folders:
        if any(folder.glob("*.parquet")):
            return _load_parquet(task, folder)
    for folder in folders:
        if any(folder.glob("*.tsv")):
            return _load_original(task, folder, spec.broken_rows == "drop")
    if folders:
        raise DataError(_needs_parquet(folders[0]))
    raise DataError(
        f"{root}: no folder for {task.name}; looked for {task.name}/ (Parquet) and {ORIGINAL_FOLDERS[task.name]}/ "
        "(GLUE's own TSV)"
    )


def _load_parquet(task: TaskSpec, folder: Path) -> TaskData:
    found: dict[str, list[Path]] = {"train": _parquet(folder, "train")}
    for ours, names in report_splits(task.name).items():
        given = {name: files for name in names if (files := _parquet(folder, name))}
        if len(given) > 1:
            raise DataError(f"{folder}: {' and '.join(given)} could both be the {ours} split of {task.name}; leave only one")
        found[ours] = next(iter(given.values()), [])
    if not found["train"] or not found["validation"]:
        raise DataError(_needs_parquet(folder))

    def rows(files: list[Path]) -> Rows:
        if len(files) == 1:
            return rows_from_frame(read_table(files[0]), task, files[0])
        # rows are numbered over all shards
        frame = pd.concat([read_table(file) for file in files], ignore_index=True).rename_axis("row")
        return rows_from_frame(frame, task, folder / f"{files[0].name.split('-')[0]}-*.parquet")

    report = {split: rows(files) for split, files in found.items() if split != "train" and files}
    return TaskData(rows(found["train"]), report, origin=f"Parquet files in {folder.name}/")


def _needs_parquet(folder: Path) -> str:
    found = sorted(file.name for file in folder.iterdir())
    return (
        f"{folder}: needs train.parquet and validation.parquet (for MNLI validation_matched.parquet), or the hub's "
        f"train-00000-of-00001.parquet and so on, or GLUE's own .tsv files; found {found}"
    )


def _parquet(folder: Path, split: str) -> list[Path]:
    """The split's file, or its shards in order; empty where there is none."""
    if (folder / f"{split}.parquet").is_file():
        return [folder / f"{split}.parquet"]
    shards = sorted(folder.glob(f"{split}-[0-9]*-of-[0-9]*.parquet"))
    totals = {match.group(1) for file in shards if (match := re.search(r"-of-(\d+)\.parquet$", file.name))}
    if shards and (len(totals) > 1 or len(shards) != int(next(iter(totals)))):
        raise DataError(f"{folder}: the {split} split is not whole; found {[file.name for file in shards]}")
    return shards


def _load_original(task: TaskSpec, folder: Path, drop_broken: bool) -> TaskData:
    splits = {"train": "train.tsv", "validation": "dev.tsv"}
    if task.name == "mnli":
        splits["validation"] = "dev_matched.tsv"
        if (folder / "dev_mismatched.tsv").is_file():
            splits["validation_mismatched"] = "dev_mismatched.tsv"
    rows: dict[str, Rows] = {}
    left_out = 0
    for split, name in splits.items():
        frame = _original_frame(task, folder / name, drop_broken)
        left_out += frame.attrs[LEFT_OUT]
        rows[split] = rows_from_frame(frame.rename(columns=_ORIGINAL_COLUMNS.get(task.name, {})), task, folder / name)
    origin = f"GLUE's own {folder.name}/ folder" + (f" without {left_out} broken lines" if left_out else "")
    return TaskData(rows.pop("train"), rows, origin=origin)


def _original_frame(task: TaskSpec, file: Path, drop_broken: bool) -> pd.DataFrame:
    # not the download's own `index`: it has gaps and repeats, a line number is unique
    ours = _ORIGINAL_COLUMNS.get(task.name, {})
    keep = [*ours, *(name for name in (*task.text, task.label) if name not in ours.values())]
    return read_plain_tsv(file, _COLA_COLUMNS if task.name == "cola" else None, drop_broken, keep)
