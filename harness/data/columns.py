"""From a table's columns to checked rows; shared by all sources."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.data.rows import Rows
from harness.errors import DataError
from harness.study.schema_errors import nearest
from harness.study.tasks import TaskSpec

REGRESSION = "regression is not supported, as numbers have no classes whose probabilities a teacher could pass on"
MULTI_LABEL = "several labels a row are not supported, as a teacher passes on one distribution over all classes"


def rows_from_frame(frame: pd.DataFrame, task: TaskSpec, origin: str | Path) -> Rows:
    """Rows of a frame that has the task's text and label columns; ids from an `idx` column where it has one, else the index.

    Errors name the row as the frame's index does (`harness.data.tables`). Raises DataError.
    """
    needed = [*task.text, task.label]
    missing = [name for name in needed if name not in frame]
    if missing:
        raise DataError(
            f"{origin}: the task {task.name!r} needs the columns {needed}; "
            f"missing {missing}, found {[str(name) for name in frame.columns]}{nearest(missing[0], map(str, frame.columns))}"
        )
    for name in [*needed, "idx"]:
        if list(frame.columns).count(name) > 1:
            raise DataError(f"{origin}: the column {name!r} is there more than once, in {[str(c) for c in frame.columns]}")
    return Rows(
        ids=_ids(frame, origin),
        texts=tuple(_texts(frame[name], origin) for name in task.text),
        labels=_labels(frame[task.label], task, origin),
    )


def _texts(column: pd.Series[Any], origin: str | Path) -> list[str]:
    texts = column.tolist()
    for position, value in enumerate(texts):
        if not isinstance(value, str):
            raise DataError(f"{_place(column, position, origin)}: column {column.name!r} holds {value!r}, not text")
    return texts


def _ids(frame: pd.DataFrame, origin: str | Path) -> np.ndarray:
    if "idx" not in frame:
        return frame.index.to_numpy(np.int64)
    column = frame["idx"]
    numbers = pd.to_numeric(column, errors="coerce")
    bad = (numbers.isna() | (numbers % 1 != 0)).to_numpy(bool)
    if not bad.any():
        bad = numbers.duplicated().to_numpy(bool)
    if bad.any():
        position = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"{_place(column, position, origin)}: column 'idx' holds {_plain(column.iloc[position])!r}, but an `idx` column "
            "gives the rows' ids and must hold whole numbers, each once. Rename the column if it means something else"
        )
    return numbers.to_numpy(np.int64, copy=True)


def _labels(column: pd.Series[Any], task: TaskSpec, origin: str | Path) -> np.ndarray:
    """Ids of labels given as names or ids."""
    by_text = {name: index for index, name in enumerate(task.labels)}
    # where labels are called "1" and "2", or "+1" and "-1", a 1 in the file is that name and can be no id
    numbers = {name: number for name in task.labels if (number := _whole_number(name)) is not None}
    ids_allowed = not numbers
    if ids_allowed:
        by_text |= {str(index): index for index in range(len(task.labels))}
    elif len(set(numbers.values())) == len(numbers):  # otherwise the file must write them as the study does
        by_text = {str(number): by_text[name] for name, number in numbers.items()} | by_text
    lists = [position for position, value in enumerate(column) if isinstance(value, list | tuple | dict | np.ndarray)]
    if lists:
        value = column.iloc[lists[0]]
        raise DataError(f"{_place(column, lists[0], origin)}: column {column.name!r} holds {_plain(value)!r}: {MULTI_LABEL}")
    codes, values = pd.factorize(column, use_na_sentinel=False)
    found = np.array([_class_of(_label_text(value), by_text) for value in values], np.int64)
    labels = found[codes]
    if (labels < 0).any():
        position = int(np.flatnonzero(labels < 0)[0])
        value = column.iloc[position]
        place = f"{_place(column, position, origin)}: label {_plain(value)!r} is none of {task.labels}"
        if reason := _out_of_scope(list(values[found < 0]), task):
            raise DataError(f"{place}: {reason}")
        raise DataError(
            place
            + (f" and no id from 0 to {len(task.labels) - 1}" if ids_allowed else "")
            + (" (GLUE's test splits have no labels)" if _label_text(value) == "-1" else nearest(str(value), task.labels))
        )
    return labels


def _class_of(text: str, by_text: Mapping[str, int]) -> int:
    """-1 for none. A column of whole numbers with gaps becomes one of 1.0 and 2.0 where pandas has written it."""
    if text not in by_text and (whole := re.fullmatch(r"([+-]?[0-9]+)\.0+", text)):
        text = whole[1]
    return by_text.get(text, -1)


def _out_of_scope(unknown: Sequence[Any], task: TaskSpec) -> str | None:
    """What a column with these values is for, where that is no classification with one label a row."""
    texts = [_label_text(value) for value in unknown]
    if any(re.fullmatch(r"[+-]?[0-9]*\.[0-9]+(e[+-]?[0-9]+)?", text) for text in texts):
        return REGRESSION
    several = [re.findall(r"[^][,;|'\"]+", text) for text in texts]
    if any(len(parts) > 1 and {part.strip() for part in parts} - {""} <= set(task.labels) for parts in several):
        return MULTI_LABEL
    return None


def _whole_number(name: str) -> int | None:
    return int(name) if re.fullmatch(r"[+-]?[0-9]+", name.strip()) else None


def _label_text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _place(column: pd.Series[Any], position: int, origin: str | Path) -> str:
    """E.g. "train.tsv, line 7"."""
    return f"{origin}, {column.index.name or 'row'} {column.index[position]}"


def _plain(value: Any) -> Any:
    """As Python would show it."""
    return value.item() if isinstance(value, np.generic) else value
