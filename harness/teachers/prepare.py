"""Everything that trials share, made once before them: each task's rows and roles, then the teachers and their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Protocol

from harness.data.cached_outputs import FEATURES
from harness.data.roles import Roles, cut_roles, save_roles
from harness.data.rows import Rows
from harness.data.source import load_task
from harness.errors import StudyError
from harness.models.sources import model_digest
from harness.plan.plan import Plan
from harness.plan.prepared import PreparedTask
from harness.plan.teacher_checks import teacher_refusal
from harness.records import ErrorRecord
from harness.study.schema import Study
from harness.study.tasks import TaskSpec
from harness.teachers.fine_tuning import TeacherJob, is_made, make_teacher
from harness.teachers.model_checks import check_models
from harness.training.failures import classify
from harness.training.majority import majority_scores
from harness.watching import Watcher
from harness.watching.console import Console


class MapFunction(Protocol):
    """Run a function on every item, in any order, here or elsewhere. An item's exception is its result."""

    def __call__(
        self, function: Callable[[TeacherJob], str], items: Iterable[TeacherJob]
    ) -> Iterator[tuple[TeacherJob, str | BaseException]]: ...


def serial_map(
    function: Callable[[TeacherJob], str], items: Iterable[TeacherJob]
) -> Iterator[tuple[TeacherJob, str | BaseException]]:
    """One item after another, in this process."""
    for item in items:
        try:
            yield item, function(item)
        except Exception as error:  # the teacher's trials are marked with it; the other teachers go on
            yield item, error


def prepare(
    plan: Plan, cache: Path, console: Console, map_function: MapFunction = serial_map, watcher: Watcher | None = None
) -> dict[str, PreparedTask]:
    """Task name -> what its trials need to know. `watcher` hears of the teachers.

    Data and models are checked for all tasks before the first teacher trains. Raises DataError, ModelError, and StudyError for
    a strategy that cannot run among teachers of these sizes. A teacher whose training fails is noted in
    `PreparedTask.teacher_errors` and does not stop the others.
    """
    study = plan.study
    console.stage("reading the data")
    tasks = plan.tasks
    roles: dict[str, Roles] = {}
    origins: dict[str, str] = {}
    for task in tasks:
        spec = study.data_for(task.name)
        data = load_task(task, spec, plan.base)
        roles[task.name] = cut_roles(data, spec, len(task.labels))
        origins[task.name] = data.origin
        save_roles(roles[task.name], cache)
    student_digest = model_digest(study.models.student)
    jobs = [job for task in tasks for job in _teacher_jobs(plan, task, roles[task.name].digest)]
    _check_teacher_sizes(plan)
    check_models(plan, roles, jobs, cache, console)
    errors = _make_teachers(jobs, cache, console, map_function, watcher or Watcher())
    return {task.name: _prepared(task, roles[task.name], origins[task.name], student_digest, jobs, errors) for task in tasks}


def _check_teacher_sizes(plan: Plan) -> None:
    """For models whose size the study does not say: the plan could not check them."""
    if not any(FEATURES in outputs for outputs in plan.teacher_outputs.values()):
        return  # nobody looks at vectors
    from harness.models.build import declared_hidden_size

    sizes = {teacher.name: declared_hidden_size(teacher) for teacher in plan.study.models.teachers}
    for cell in plan.cells:
        own = {teacher.name: sizes[teacher.name] for teacher in cell.teachers}
        if reason := teacher_refusal(cell.strategy, cell.settings, cell.space, own):
            raise StudyError(reason)


def _teacher_jobs(plan: Plan, task: TaskSpec, data_digest: str) -> list[TeacherJob]:
    study: Study = plan.study
    resources = study.resources.for_task(task.name)
    return [
        TeacherJob(
            task=task,
            teacher=teacher.for_task(task.name),
            data_digest=data_digest,
            source_digest=model_digest(teacher),
            max_length=study.data_for(task.name).max_length,
            outputs=plan.teacher_outputs[teacher.name],
            cpus=resources.cpus_per_worker,
            gpus=resources.gpus_per_worker,
        )
        for teacher in study.models.teachers
    ]


def _make_teachers(
    jobs: list[TeacherJob], cache: Path, console: Console, map_function: MapFunction, watcher: Watcher
) -> dict[str, ErrorRecord]:
    """Digest -> error of the teachers that failed."""
    console.stage(f"preparing {len(jobs)} teachers")
    errors: dict[str, ErrorRecord] = {}
    # a study may name one teacher twice, or a task, and want different outputs of each
    unique: dict[str, TeacherJob] = {}
    for job in jobs:
        outputs = {*job.outputs, *(unique[job.digest].outputs if job.digest in unique else ())}
        unique[job.digest] = job.model_copy(update={"outputs": tuple(sorted(outputs))})
    for job in unique.values():
        watcher.happened("teacher_started", **_named(job))
    made = [job for job in unique.values() if is_made(job, cache)]  # a process that would find only that takes seconds to start
    missing = [job for job in unique.values() if job not in made]
    made_now = map_function(partial(make_teacher, cache=cache), missing)
    for job, result in chain(((job, job.digest) for job in made), made_now):
        if isinstance(result, BaseException):
            error = classify(result)
            errors[job.digest] = error.model_copy(update={"kind": "teacher"})
            console.note(f"teacher {job.teacher.name} of {job.task.name} failed: {error.type}: {error.message}")
            watcher.happened("teacher_failed", **_named(job), error=f"{error.type}: {error.message}")
        else:
            console.note(f"teacher {job.teacher.name} of {job.task.name} is ready")
            watcher.happened("teacher_finished", **_named(job))
    return errors


def _named(job: TeacherJob) -> dict[str, str]:
    return {"task": job.task.name, "teacher": job.teacher.name, "digest": job.digest}


def _prepared(
    task: TaskSpec,
    roles: Roles,
    origin: str,
    student_digest: str,
    jobs: list[TeacherJob],
    errors: dict[str, ErrorRecord],
) -> PreparedTask:
    own = {job.teacher.name: job.digest for job in jobs if job.task.name == task.name}
    parts: dict[str, Rows] = {**roles.for_training, **roles.report}
    return PreparedTask(
        data_digest=roles.digest,
        digests=roles.digests,
        rows={role: len(rows.ids) for role, rows in parts.items()},
        origin=origin,
        majority=majority_scores(roles.training, roles.report, task),
        student_digest=student_digest,
        teacher_digests=own,
        teacher_errors={name: errors[digest] for name, digest in own.items() if digest in errors},
    )
