"""Where a task's rows come from."""

from __future__ import annotations

from pathlib import Path

from harness.data.rows import TaskData
from harness.errors import DataError
from harness.study.data import DataSpec
from harness.study.tasks import GLUE, TaskSpec


def load_task(task: TaskSpec, spec: DataSpec, base: Path | None = None) -> TaskData:
    """A task's rows, checked. `base` is where the task's own relative `files`, or a folder as `data.dataset`, start.

    Raises DataError, which names the file and the row, for anything that is not as the task says.
    """
    from harness.data import directory, files, generated, hub, hub_task

    if task.rows_of:
        task = GLUE[task.rows_of]
    if task.files:
        data = files.load(task, base or Path.cwd(), spec.broken_rows == "drop")
    elif spec.dataset is not None and task.name not in GLUE:
        data = hub_task.load(task, spec, base or Path.cwd())
    elif task.name not in GLUE and spec.source != "generated":
        raise DataError(
            f"the task {task.name!r} is not one of GLUE's ({', '.join(GLUE)}) and names no `files` to read it from, nor "
            "`data.dataset`"
        )
    elif spec.source == "generated":
        data = generated.load(task, spec)
    elif spec.source == "directory":
        data = directory.load(task, spec)
    else:
        data = hub.load(task, spec)
    for split, rows in {"train": data.train, **data.report}.items():
        if not len(rows):
            raise DataError(f"{data.origin}: the {split} split of {task.name} has no rows")
    return data
