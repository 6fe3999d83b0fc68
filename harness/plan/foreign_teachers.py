"""Whether teachers that were trained elsewhere fit a study's tasks and strategies, as far as the study itself says. No torch.

What the checkpoints and files hold is checked before any training, when they are read.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from harness.data.output_names import FEATURES, LAYERS, PARTS
from harness.errors import StudyError
from harness.loss_terms.base import TermNeeds
from harness.study.class_names import match_classes
from harness.study.data import DataSpec
from harness.study.schema import Study, TeacherSpec
from harness.study.schema_errors import nearest
from harness.study.tasks import TaskSpec, official_rows
from harness.study.yaml_lines import KeyPath

SUFFIXES = (".parquet", ".npy")
_SHOWN = {FEATURES: "pooled vectors", LAYERS: "layers", PARTS: "outputs on parts of the input"}


def check_foreign_teachers(study: Study, tasks: Sequence[TaskSpec], base: Path) -> None:
    """Raises StudyError for a task without a checkpoint or files, and for files and labels that cannot be right.

    That the tasks named are the study's own is `harness.plan.checks`' to say. `base` is where relative paths start.
    """
    for index, teacher in enumerate(study.models.teachers):
        here: KeyPath = ("models", "teachers", index)
        for task in tasks:
            for origin in ("fine_tuned", "outputs"):
                given = getattr(teacher, origin)
                if given is not None and task.name not in given:
                    raise StudyError(
                        f"the teacher {teacher.name!r} has nothing for the task {task.name!r}, and every task needs all "
                        f"its teachers; it has {', '.join(given)}",
                        (*here, origin),
                    )
            if teacher.outputs is not None:
                splits = split_names(task, study.data_for(task.name))
                _check_files(teacher, task, splits, base, (*here, "outputs", task.name))
            _check_labels(teacher, task, here)


def outputs_refusal(needs: TermNeeds, terms: Sequence[str], teachers: Sequence[TeacherSpec]) -> str | None:
    """Why a strategy and its loss terms cannot learn from those of the teachers that have stored outputs alone."""
    stored = [teacher for teacher in teachers if teacher.outputs is not None]
    if stored and needs.teacher_outputs:
        wanted = " and ".join(_SHOWN.get(name, "outputs under dropout") for name in needs.teacher_outputs)
        return (
            f"it wants {wanted} of its teachers, and {stored[0].name!r} has stored outputs alone. Choose others with "
            "`teachers: [NAME]` under the strategy, or give the teacher itself with `fine_tuned:`"
        )
    vague = [teacher for teacher in stored if teacher.output_kind == "probabilities"]
    if vague and needs.logit_level:
        return (
            f"its loss terms ({', '.join(terms)}) compare logits themselves, and the probabilities of {vague[0].name!r} leave "
            "open what is added to all logits of a row. Store logits, or choose other teachers with `teachers: [NAME]`"
        )
    return None


def split_names(task: TaskSpec, data: DataSpec) -> list[str]:
    """The splits whose outputs a teacher may bring."""
    return list(task.files or official_rows(task.source_name) or data.splits or ("train", "validation"))


def _check_files(teacher: TeacherSpec, task: TaskSpec, splits: Sequence[str], base: Path, where: KeyPath) -> None:
    assert teacher.outputs is not None
    files = teacher.outputs[task.name]
    for split, name in files.items():
        if split not in splits:
            raise StudyError(
                f"{split!r} is no split of {task.name}.{nearest(split, splits)} Allowed: {', '.join(splits)}", (*where, split)
            )
        file = base / name
        if file.suffix not in SUFFIXES:
            raise StudyError(f"{name!r} is no file of outputs; allowed are {' and '.join(SUFFIXES)}", (*where, split))
        if not file.is_file():
            raise StudyError(
                f"there is no file {name!r}{_near_file(file)}; relative paths start from the study file", (*where, split)
            )
    if "train" not in files:
        raise StudyError("`train` is missing: students learn from a teacher's outputs on the training rows", where)
    arrays = [name for name in files.values() if name.endswith(".npy")]
    if arrays and task.name not in teacher.labels:
        raise StudyError(
            f"the columns of {arrays[0]!r} have no names; say which class is which: "
            f"`labels: {{{task.name}: [{', '.join(task.labels)}]}}`, in the order of the columns",
            where,
        )
    if not arrays and task.name in teacher.labels:
        raise StudyError(
            "`labels` is for .npy files; the columns of a Parquet file are called as the classes",
            (*where[:-2], "labels", task.name),
        )


def _check_labels(teacher: TeacherSpec, task: TaskSpec, here: KeyPath) -> None:
    if task.name in teacher.labels:
        try:
            match_classes(task.labels, teacher.labels[task.name])
        except ValueError as error:
            raise StudyError(str(error), (*here, "labels", task.name)) from error


def _near_file(file: Path) -> str:
    known = [path.name for path in file.parent.glob("*") if path.suffix in SUFFIXES] if file.parent.is_dir() else []
    near = difflib.get_close_matches(file.name, known, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""
