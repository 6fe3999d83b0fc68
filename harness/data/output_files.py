"""A teacher's outputs that were computed elsewhere: one file a split, checked and matched with the split's rows.

.parquet   one column a class, called as the class, and `idx`, the rows' ids, in any order; or no `idx`, and one line for each
           row of the task's own file, in its order. With `idx`, only the rows that the study uses need to be there
.npy       [rows, classes], one line for each row of the task's own file, in its order; the study's `labels` name the columns
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.rows import Rows
from harness.data.tables import read_table
from harness.digest import digest
from harness.errors import DataError
from harness.study.class_names import match_classes

SUM_TOLERANCE = 1e-2
"""Probabilities of a row may differ from a sum of 1 by so much: half precision, or a few decimals."""
SMALLEST = 1e-6
"""A probability of 0 stands for the file's smallest other one, or for this where that is larger: its logarithm is infinite."""
ID_COLUMN = "idx"


def files_digest(files: Mapping[str, Path]) -> str:
    """Of the contents, by split, wherever the files lie. Raises DataError."""
    found = []
    for split, file in sorted(files.items()):
        if not file.is_file():
            raise DataError(f"{file}: no such file")
        with file.open("rb") as handle:
            found.append((split, file.suffix, hashlib.file_digest(handle, "sha256").hexdigest()))
    return digest(found)


def read_outputs(
    file: Path, split: Rows, used: np.ndarray, classes: Sequence[str], labels: Sequence[str] | None, kind: str
) -> np.ndarray:
    """[used, classes] float32 logits of the rows whose ids are `used`, for the task's `classes` in their order.

    `split` holds all rows of the split, in its file's order; `labels` name the columns of an array. `kind` is logits or
    probabilities, which become logarithms with a mean of 0 over the classes. Raises DataError.
    """
    ids, values, names = _read_array(file, labels) if file.suffix == ".npy" else _read_columns(file)
    try:
        order = match_classes(classes, names)
    except ValueError as error:
        raise DataError(f"{file}: one column for each class is expected{_beside(file)}, and {error}") from error
    rows = _rows_of(file, ids, len(values), split, used)
    values = values[rows][:, order].astype(np.float64)
    _check(file, values, used, kind)
    if kind == "probabilities":
        smallest = values[values > 0].min()
        values = np.log(np.maximum(values, min(SMALLEST, smallest)))
        values -= values.mean(1, keepdims=True)
    found: np.ndarray = values.astype(np.float32)
    return found


def write_outputs(file: Path, ids: np.ndarray, logits: np.ndarray, classes: Sequence[str]) -> None:
    """A Parquet file as `read_outputs` reads it. Raises DataError for a class that is called as the column of ids."""
    import pandas as pd

    if ID_COLUMN in classes:
        raise DataError(f"a class is called {ID_COLUMN!r}, as the column of the rows' ids: its outputs cannot be written")
    columns = {name: logits[:, index] for index, name in enumerate(classes)}
    file.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({ID_COLUMN: ids, **columns}).to_parquet(file, index=False)


def _read_array(file: Path, labels: Sequence[str] | None) -> tuple[None, np.ndarray, Sequence[str]]:
    try:
        values = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: not a readable array: {error}") from error
    names = labels or ()
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.shape[1] != len(names):
        found = f"an array of shape {list(values.shape)}" if isinstance(values, np.ndarray) else "several arrays"
        raise DataError(f"{file}: {found}, and [rows, {len(names)}] is expected: a column for each of `labels`")
    if values.dtype.kind not in "fiu":
        raise DataError(f"{file}: an array of {values.dtype}, and numbers are expected")
    return None, values, names


def _read_columns(file: Path) -> tuple[np.ndarray | None, np.ndarray, list[str]]:
    frame = read_table(file)
    ids = None
    if ID_COLUMN in frame:
        column: Any = frame.pop(ID_COLUMN)
        if column.dtype.kind not in "iu":
            raise DataError(f"{file}: the column {ID_COLUMN!r} holds {column.dtype}, and the rows' ids are whole numbers")
        ids = column.to_numpy(np.int64)
    for name in frame.columns:
        if frame[name].dtype.kind not in "fiu":
            raise DataError(f"{file}: the column {str(name)!r} holds {frame[name].dtype}, and numbers are expected")
    return ids, frame.to_numpy(), [str(name) for name in frame.columns]


def _rows_of(file: Path, ids: np.ndarray | None, count: int, split: Rows, used: np.ndarray) -> np.ndarray:
    """Where in the file the rows of the ids `used` are."""
    if ids is None:
        ids = split.ids
        if count != len(split):
            raise DataError(
                f"{file}: {count} lines, and the split has {len(split)} rows; give one line for each of them"
                + (f", or a column {ID_COLUMN!r} with the ids of those that are there" if file.suffix == ".parquet" else "")
            )
    by_id = np.argsort(ids, kind="stable")
    known = ids[by_id]
    twice = known[:-1][known[1:] == known[:-1]]
    if len(twice):
        raise DataError(f"{file}: {ID_COLUMN} {int(twice[0])} is there more than once ({len(np.unique(twice))} such ids)")
    strange = ids[~np.isin(ids, split.ids)]
    if len(strange):
        raise DataError(
            f"{file}: {ID_COLUMN} {int(strange[0])} is no row of the split, whose ids go from {int(split.ids.min())} to "
            f"{int(split.ids.max())} ({len(strange)} such ids): is it another split's file?"
        )
    lacking = used[~np.isin(used, ids)]
    if len(lacking):
        raise DataError(
            f"{file}: {len(lacking)} of the {len(used)} rows that the study uses have no outputs, first {ID_COLUMN} "
            f"{int(np.sort(lacking)[0])}"
        )
    return by_id[np.searchsorted(known, used)]


def _check(file: Path, values: np.ndarray, used: np.ndarray, kind: str) -> None:
    """Raises DataError for values [used, classes] that are not what `kind` says."""
    finite = np.isfinite(values).all(1)
    if not finite.all():
        raise DataError(f"{file}: {_first(values, used, ~finite)} not finite")
    whole = (values >= 0).all(1) & (np.abs(values.sum(1) - 1) <= SUM_TOLERANCE)
    if kind == "probabilities" and not whole.all():
        raise DataError(
            f"{file}: {_first(values, used, ~whole)} no probabilities, which are not negative and sum to 1; for logits, say "
            "`output_kind: logits`"
        )
    if kind == "logits" and whole.all():
        raise DataError(f"{file}: every row sums to 1, as probabilities do; for those, say `output_kind: probabilities`")


def _first(values: np.ndarray, used: np.ndarray, bad: np.ndarray) -> str:
    first = int(np.flatnonzero(bad)[0])
    shown = ", ".join(f"{value:g}" for value in values[first])
    count = int(bad.sum())
    return f"the outputs of idx {int(used[first])} ({shown}){f' and of {count - 1} other rows' if count > 1 else ''} are"


def _beside(file: Path) -> str:
    return "" if file.suffix == ".npy" else f", and {ID_COLUMN!r} beside them"
