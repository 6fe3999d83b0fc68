"""From a table's columns to checked rows; shared by all sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.data.rows import Rows
from harness.errors import DataError
from harness.study import TaskSpec


def rows_from_frame(frame: pd.DataFrame, task: TaskSpec, origin: str | Path) -> Rows:
    """Rows of a frame that has the task's text and label columns; ids from an `idx` column of unique integers, else the index.

    Errors name the row by the frame's index (`harness.data.tables`). Raises DataError.
    """
    missing = [name for name in (*task.text, task.label) if name not in frame]
    if missing:
        raise DataError(
            f"{origin}: the task {task.name!r} needs the columns {[*task.text, task.label]}; "
            f"missing {missing}, found {[str(name) for name in frame.columns]}"
        )
    for name in task.text:
        bad = frame[name].map(lambda value: not isinstance(value, str))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise DataError(f"{origin}, row {frame.index[row]}: column {name!r} holds {frame[name].iloc[row]!r}, not text")
    return Rows(
        ids=_ids(frame),
        texts=tuple(frame[name].tolist() for name in task.text),
        labels=_labels(frame[task.label], task, origin),
    )


def _ids(frame: pd.DataFrame) -> np.ndarray:
    if "idx" in frame and pd.api.types.is_integer_dtype(frame["idx"]) and frame["idx"].is_unique:
        return frame["idx"].to_numpy(np.int64)
    return frame.index.to_numpy(np.int64)


def _labels(values: pd.Series[Any], task: TaskSpec, origin: str | Path) -> np.ndarray:
    by_name = {name: index for index, name in enumerate(task.labels)}
    by_name |= {str(index): index for index in range(len(task.labels))}
    labels = np.empty(len(values), np.int64)
    for position, (row, value) in enumerate(values.items()):
        text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
        if text not in by_name:
            raise DataError(
                f"{origin}, row {row}: label {value!r} is none of {task.labels} and no id from 0 to "
                f"{len(task.labels) - 1}" + (" (GLUE's test splits have no labels)" if text == "-1" else "")
            )
        labels[position] = by_name[text]
    return labels
