"""A study's own task, from the files that it names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.data.columns import rows_from_frame
from harness.data.rows import Rows, TaskData
from harness.data.tables import LEFT_OUT, quoted_columns, read_table
from harness.errors import DataError
from harness.study.tasks import TaskSpec

if TYPE_CHECKING:
    import pandas as pd


def load(task: TaskSpec, base: Path, drop_broken: bool = False) -> TaskData:
    """Rows of `task.files`; every name beside `train` is a report split. Raises DataError."""
    left_out = 0
    notes: list[str] = []

    def read(name: str) -> Rows:
        nonlocal left_out
        file = base / task.files[name]
        frame = read_table(file, drop_broken)
        left_out += frame.attrs.get(LEFT_OUT, 0)
        hint = _quotes(frame) if file.suffix == ".tsv" else ""
        try:
            rows = rows_from_frame(frame, task, file)
        except DataError as error:
            raise DataError(f"{error}{f'. {hint}' if hint else ''}") from error
        if hint:
            notes.append(f"{task.files[name]}: {hint}")
        return rows

    report = {name: read(name) for name in task.files if name != "train"}
    train = read("train")
    dropped = f", without {left_out} broken lines" if left_out else ""
    return TaskData(train, report, f"the study's own files ({task.files['train']}, ...{dropped})", tuple(notes))


def _quotes(frame: pd.DataFrame) -> str:
    """Empty where there is nothing to say."""
    columns = quoted_columns(frame)
    if not columns:
        return ""
    return (
        f"Most fields of {', '.join(columns)} stand in quotes, which are text in a .tsv file, as in GLUE's; if they only "
        "enclose the text, save the table as .csv"
    )
