"""A study's own task, from the files that it names."""

from __future__ import annotations

import re
from pathlib import Path

from harness.data.columns import rows_from_frame
from harness.data.rows import Rows, TaskData
from harness.data.tables import LEFT_OUT, read_table
from harness.errors import DataError
from harness.study.tasks import TaskSpec

_TAKEN = frozenset({"fit", "meta", "select", "report"})


def load(task: TaskSpec, base: Path, drop_broken: bool = False) -> TaskData:
    """Rows of `task.files`; every name beside `train` is a report split. Raises DataError."""
    for name in task.files:
        if name in _TAKEN or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise DataError(
                f"the task {task.name!r}: `files` cannot call a split {name!r}; allowed are train, validation and further "
                f"names of lower-case letters, digits and underscores that are no role ({', '.join(sorted(_TAKEN))})"
            )
    left_out = 0

    def read(name: str) -> Rows:
        nonlocal left_out
        file = base / task.files[name]
        frame = read_table(file, drop_broken)
        left_out += frame.attrs.get(LEFT_OUT, 0)
        return rows_from_frame(frame, task, file)

    report = {name: read(name) for name in task.files if name != "train"}
    train = read("train")
    dropped = f", without {left_out} broken lines" if left_out else ""
    return TaskData(train, report, origin=f"the study's own files ({task.files['train']}, ...{dropped})")
