"""A study's own task, from the files that it names."""

from __future__ import annotations

from pathlib import Path

from harness.data.columns import rows_from_frame
from harness.data.rows import Rows
from harness.data.source import TaskData
from harness.data.tables import read_table
from harness.study import TaskSpec


def load(task: TaskSpec, base: Path, drop_broken: bool = False) -> TaskData:
    """Rows of `task.files`; every name beside `train` is a report split. Raises DataError."""

    def read(name: str) -> Rows:
        file = base / task.files[name]
        return rows_from_frame(read_table(file, drop_broken), task, file)

    report = {name: read(name) for name in task.files if name != "train"}
    return TaskData(read("train"), report, origin=f"the study's own files ({task.files['train']}, ...)")
