"""Classes that a task names and some of its rows never show."""

from __future__ import annotations

import numpy as np

from harness.data.roles import Roles
from harness.data.rows import Rows, TaskData
from harness.errors import DataError
from harness.study.tasks import TaskSpec


def class_notes(task: TaskSpec, data: TaskData, roles: Roles) -> list[str]:
    """Lines for the terminal on roles that lack a class. Raises DataError for a class that no training row has.

    Nobody could learn such a class, and a score would count it: most often it is a name that the file writes otherwise.
    """
    if absent := _absent(task, data.train):
        raise DataError(
            f"{data.origin}: none of the {len(data.train):,} training rows of {task.name} is labelled {' or '.join(absent)}, "
            f"and `labels` names {'them' if len(absent) > 1 else 'it'}; leave out what cannot be learned"
        )
    notes = []
    for role, rows in {**roles.for_training, **roles.report}.items():
        if absent := _absent(task, rows):
            notes.append(f"none of the {len(rows):,} {role} rows of {task.name} is labelled {' or '.join(absent)}")
    return notes


def _absent(task: TaskSpec, rows: Rows) -> list[str]:
    counts = np.bincount(rows.labels, minlength=len(task.labels))
    return [name for name, count in zip(task.labels, counts, strict=True) if not count]
