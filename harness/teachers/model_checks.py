"""Every model of a study tried before the first teacher trains: a student that cannot be built should not cost its teachers.

What files, configurations and tokenizers say of it, before the data are read; how it takes rows, after.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.data.roles import Roles
from harness.errors import ModelError
from harness.models.build import load_tokenizer, tokenizer_digest
from harness.models.check import check_model, check_shape
from harness.models.own_head import fine_tuned_labels
from harness.plan.plan import Plan
from harness.study.schema import ModelSpec
from harness.teachers.fine_tuning import TeacherJob, is_made
from harness.watching.console import Console


def check_shapes(plan: Plan, cache: Path) -> int:
    """Whether every model of the study can be built; how many there are. Reads no data and no weights.

    Raises ModelError, which names the student or teacher: `check_shape`, or a fine-tuned one whose classes are not the task's.
    """
    seen: set[tuple[str, int, int]] = set()
    moved = _moved_layers(plan)
    for task in plan.tasks:
        max_length = plan.study.data_for(task.name).max_length
        teachers = [one for one in plan.used_teachers if one.outputs is None]
        models: list[tuple[str, ModelSpec, int | None]] = [("the student", plan.study.models.student, moved)]
        models += [(f"teacher {one.name!r}", one.checkpoint(task.name), None) for one in teachers]
        for shown, spec, moved_layers in models:
            same = (spec.model_dump_json(include=set(ModelSpec.model_fields)), len(task.labels), max_length)
            if same in seen and moved_layers is None:
                continue
            seen.add(same)
            try:
                check_shape(spec, len(task.labels), max_length, cache, moved_layers)
            except ModelError as error:
                raise ModelError(f"{shown}: {error}") from error
        moved = None
        for teacher in teachers:
            if teacher.fine_tuned is not None:
                fine_tuned_labels(teacher.checkpoint(task.name), task.labels, teacher.labels.get(task.name))
    return len({spec for spec, _, _ in seen})


def check_models(plan: Plan, roles: Mapping[str, Roles], jobs: Iterable[TeacherJob], cache: Path, console: Console) -> None:
    """`roles` by task. Teachers that are made have been tried. Raises ModelError, which names the student or teacher."""
    tried: set[tuple[str, str, int, int]] = set()
    said: set[str] = set()
    moved = _moved_layers(plan)

    def check(shown: str, spec: ModelSpec, task: str, max_length: int, moved_layers: int | None = None) -> None:
        rows = roles[task].training
        classes = len(next(one.labels for one in plan.tasks if one.name == task))
        tokenizer = load_tokenizer(spec, rows.texts(), cache)
        same = (spec.model_dump_json(include=set(ModelSpec.model_fields)), tokenizer_digest(tokenizer), classes, max_length)
        if same in tried and moved_layers is None:
            return
        try:
            notes = check_model(spec, classes, tokenizer, [text[:2] for text in rows.fit.texts], max_length, moved_layers)
        except ModelError as error:
            raise ModelError(f"{shown}: {error}") from error
        tried.add(same)
        for line in (f"{shown}: {note}" for note in notes):
            if line not in said:
                console.note(line)
                said.add(line)

    for task in plan.tasks:
        check("the student", plan.study.models.student, task.name, plan.study.data_for(task.name).max_length, moved)
        moved = None
    for job in jobs:
        if not is_made(job, cache):
            check(f"teacher {job.teacher.name!r}", job.teacher.checkpoint(job.task.name), job.task.name, job.max_length)


def _moved_layers(plan: Plan) -> int | None:
    """Of the student, at most; None where no strategy's look-ahead names them."""
    wanted = [cell.needs.look_ahead_options.get("layers") for cell in plan.cells]
    return max((int(one) for one in wanted if one is not None), default=None)
