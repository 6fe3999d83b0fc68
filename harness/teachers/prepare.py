"""Everything that trials share, made once before them: each task's rows and roles, then the teachers and their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from harness.checksums import remove_damaged
from harness.data.encode import token_folders
from harness.data.output_names import FEATURES
from harness.data.roles import Roles, class_notes, cut_roles, rows_folder, save_roles
from harness.data.rows import Rows, rows_in_common
from harness.data.source import load_task
from harness.data.teacher_outputs import teacher_folder
from harness.errors import StoreError, StudyError
from harness.hub import commits
from harness.models.own_head import classifier_digest, fine_tuned_labels
from harness.models.sources import model_digest
from harness.models.tokenizing import load_tokenizer
from harness.plan.batch_checks import check_smallest_batch
from harness.plan.checks import task_training
from harness.plan.plan import Plan
from harness.plan.prepared import PreparedTask
from harness.plan.teacher_checks import teacher_refusal
from harness.records import ErrorRecord
from harness.study.schema import TeacherSpec
from harness.study.tasks import TaskSpec
from harness.teachers.fine_tuning import TeacherJob, is_made, make_teacher
from harness.teachers.model_checks import check_models, check_shapes
from harness.teachers.notes import doubtful_teachers, head_notes
from harness.teachers.progress import following
from harness.teachers.stored_outputs import in_order, outputs_digest, store_outputs
from harness.training.failures import DISK_FULL, classify
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
    plan: Plan,
    cache: Path,
    console: Console,
    map_function: MapFunction = serial_map,
    watcher: Watcher | None = None,
    *,
    make_teachers: bool = True,
) -> dict[str, PreparedTask]:
    """Task name -> what its trials need to know. `watcher` hears of the teachers.

    Models are checked as far as that goes without data before these are read, and data and models for all tasks before the
    first teacher trains. Raises DataError, ModelError, and StudyError for
    a strategy that cannot run among teachers of these sizes, and StoreError for a full disk. Damaged folders of the cache are
    made again, which the console says. A teacher whose training fails is noted in
    `PreparedTask.teacher_errors` and does not stop the others. Without `make_teachers` so are all that the cache lacks.
    """
    study = plan.study
    console.stage("checking the models")
    check_shapes(plan, cache)
    console.stage("reading the data")
    roles: dict[str, Roles] = {}
    origins: dict[str, str] = {}
    jobs: list[TeacherJob] = []
    for folder in (cache / "tokenizers").glob("*"):
        _remove_damaged(folder, console)
    for task in plan.tasks:
        spec = study.data_for(task.name)
        data = load_task(task, spec, plan.base)
        for note in data.notes:
            console.note(f"note: {note}")
        roles[task.name] = cut_roles(data, spec, len(task.labels))
        for note in class_notes(task, data, roles[task.name]):
            console.note(f"note: {note}")
        origins[task.name] = data.origin
        for split, rows in roles[task.name].report.items():
            if common := rows_in_common(rows, roles[task.name].for_training.values()):
                console.note(
                    f"note: {common:,} of the {len(rows):,} {split} rows of {task.name} have the text of a training row: "
                    "their scores say little of new text"
                )
        sizes = {role: len(rows) for role, rows in roles[task.name].for_training.items()}
        check_smallest_batch(study, task.name, task_training(study, task), sizes)
        for folder in (rows_folder(cache, roles[task.name].digest), *token_folders(cache, roles[task.name].digest)):
            _remove_damaged(folder, console)
        save_roles(roles[task.name], cache)
        own = [in_order(job, data) for job in _teacher_jobs(plan, task, roles[task.name].digest, cache)]
        for job in own:
            # the weights are read only where more of the teacher is wanted
            names = [file.name for file in teacher_folder(cache, job.digest).glob("*") if file.suffix != ".safetensors"]
            _remove_damaged(teacher_folder(cache, job.digest), console, names if is_made(job, cache) else None)
            if job.teacher.outputs is not None:
                store_outputs(job, data, roles[task.name], cache, plan.base)
        jobs += own
    students = {task.name: classifier_digest(study.models.student, task.labels) for task in plan.tasks}
    _check_teacher_sizes(plan)
    check_models(plan, roles, jobs, cache, console)
    for note in head_notes(plan):
        console.note(f"note: {note}")
    if make_teachers:
        errors = _make_teachers(jobs, cache, console, map_function, watcher or Watcher())
    else:
        lacking = ErrorRecord(kind="teacher", type="NotMade", message="the cache does not hold all its outputs")
        errors = {job.digest: lacking for job in jobs if not is_made(job, cache)}
    made = {
        task.name: _prepared(task, roles[task.name], origins[task.name], students[task.name], jobs, errors)
        for task in plan.tasks
    }
    for note in doubtful_teachers(plan, made, cache):
        console.note(f"note: {note}")
    return made


def _remove_damaged(folder: Path, console: Console, names: Iterable[str] | None = None) -> None:
    if damage := remove_damaged(folder, names):
        console.note(f"note: {damage.partition('. ')[0]}; it is made again")


def _check_teacher_sizes(plan: Plan) -> None:
    """For models whose size the study does not say: the plan could not check them."""
    if not any(FEATURES in outputs for outputs in plan.teacher_outputs.values()):
        return  # nobody looks at vectors
    from harness.models.build import declared_hidden_size

    sizes = {
        (task.name, teacher.name): None if teacher.outputs is not None else declared_hidden_size(teacher.checkpoint(task.name))
        for task in plan.tasks
        for teacher in plan.used_teachers
    }
    for cell in plan.cells:
        own = {teacher.name: sizes[cell.task.name, teacher.name] for teacher in cell.teachers}
        if reason := teacher_refusal(cell.strategy, cell.settings, cell.space, own):
            raise StudyError(reason)


def _teacher_jobs(plan: Plan, task: TaskSpec, data_digest: str, cache: Path) -> list[TeacherJob]:
    """Of the teachers that some strategy uses."""
    resources = plan.study.resources.for_task(task.name)
    return [
        TeacherJob(
            task=task,
            teacher=teacher,
            data_digest=data_digest,
            source_digest=_source_digest(teacher, task, plan.base, cache),
            max_length=plan.study.data_for(task.name).max_length,
            outputs=plan.teacher_outputs[teacher.name],
            cpus=resources.cpus_per_worker,
            gpus=resources.gpus_per_worker,
        )
        for teacher in (one.for_task(task.name) for one in plan.used_teachers)
    ]


def _source_digest(teacher: TeacherSpec, task: TaskSpec, base: Path, cache: Path) -> str:
    """Of the weights or files that the teacher comes from, which are checked. Raises ModelError, DataError."""
    if teacher.outputs is not None:
        return outputs_digest(teacher, task, base)
    source = teacher.checkpoint(task.name)
    if teacher.fine_tuned is None:
        return classifier_digest(source, task.labels)
    found = model_digest(source)
    fine_tuned_labels(source, task.labels, teacher.labels.get(task.name))
    if source.tokenizer != "words":
        load_tokenizer(source, (), cache)
    return found


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
        unique[job.digest] = job.model_copy(update={"outputs": tuple(sorted(outputs)), "hub_commits": commits()})
    for job in unique.values():
        watcher.happened("teacher_started", **_named(job))
    made = [job for job in unique.values() if is_made(job, cache)]  # a process that would find only that takes seconds to start
    missing = [job for job in unique.values() if job not in made]
    made_now = map_function(partial(make_teacher, cache=cache), missing)

    def told(job: TeacherJob, progress: dict[str, Any]) -> None:
        if console.teacher_trains(_shown(job), progress):
            watcher.happened("teacher_progress", **_named(job), **progress)

    with following(missing, cache, told):
        for job, result in chain(((job, job.digest) for job in made), made_now):
            console.teacher_ended(_shown(job))
            if isinstance(result, BaseException):
                error = classify(result)
                if error.type == DISK_FULL:
                    raise StoreError(
                        f"no space left on the disk (or in the quota) of the cache, says {_shown(job)}: {error.message}. Free "
                        "some, or name another folder with HARNESS_CACHE; the same command goes on from there"
                    ) from result
                errors[job.digest] = error.model_copy(update={"kind": "teacher"})
                console.note(f"{_shown(job)} failed: {error.type}: {error.message}")
                watcher.happened("teacher_failed", **_named(job), error=f"{error.type}: {error.message}")
            else:
                console.note(f"{_shown(job)} is ready")
                watcher.happened("teacher_finished", **_named(job))
    for job in missing:  # news may have crossed its end
        console.teacher_ended(_shown(job))
    return errors


def _shown(job: TeacherJob) -> str:
    return f"teacher {job.teacher.name} of {job.task.name}"


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
        majority=majority_scores(roles.training, {"select": roles.training.select, **roles.report}, task),
        student_digest=student_digest,
        teacher_digests=own,
        hub_commits=commits(),
        teacher_errors={name: errors[digest] for name, digest in own.items() if digest in errors},
    )
