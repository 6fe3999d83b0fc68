"""The parts of a study that refer to something else, checked: tasks, strategies, their settings, teachers and search spaces.

Every StudyError raised here has `where` set.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from harness.errors import DataError, StudyError
from harness.models.families import known_layers, layers_refusal, positions_refusal, stacked_refusal
from harness.models.sources import family_refusal, files_refusal, known_configuration
from harness.plan.teacher_checks import sizes_in_the_study, teacher_refusal
from harness.plan.term_checks import check_range, check_terms
from harness.study.comparisons import BASELINE, CONTROLS, EQUAL_ROWS, families, kind_of_strategy
from harness.study.data import DataSpec
from harness.study.schema import ModelSpec, Recipe, StrategyEntry, Study, TeacherSpec, TrainingSpec
from harness.study.schema_errors import faults, nearest
from harness.study.tasks import GLUE, TaskSpec, resolve_task
from harness.study.yaml_lines import KeyPath
from strategies.base import Needs, Settings
from strategies.registry import Registered, UnknownStrategyError, resolve
from strategies.space import Choice, FloatRange, Range

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class ResolvedStrategy:
    """An entry of `strategies:` with everything it refers to."""

    entry: StrategyEntry
    strategy: Registered
    settings: Settings
    needs: Needs
    teachers: tuple[TeacherSpec, ...]
    space: dict[str, Range]
    """Of its own settings."""
    teacher_outputs: frozenset[str]
    """What it wants of the teachers beside their logits, with any settings that its search can reach."""


def resolve_tasks(study: Study, base: Path) -> tuple[TaskSpec, ...]:
    """The study's tasks, those of the hub completed; sections that name tasks are checked against them.

    `base` is where relative paths start.
    """
    tasks: dict[str, TaskSpec] = {}
    for index, entry in enumerate(study.tasks):
        try:
            task = _resolve_task(study, entry, base)
        except (StudyError, DataError) as error:
            raise StudyError(str(error), getattr(error, "where", ()) or ("tasks", index)) from error
        if task.name in tasks:
            raise StudyError(f"the task {task.name!r} is named twice", ("tasks", index))
        tasks[task.name] = task
    sections: tuple[tuple[KeyPath, Mapping[str, Any]], ...] = (
        (("data_per_task",), study.data_per_task),
        (("training_per_task",), study.training_per_task),
        (("resources", "per_task"), study.resources.per_task),
        *(
            (("models", "teachers", index, section), getattr(teacher, section) or {})
            for index, teacher in enumerate(study.models.teachers)
            for section in ("training_per_task", "fine_tuned", "outputs", "labels")
        ),
    )
    for section, names in sections:
        for name in names:
            if name not in tasks:
                raise StudyError(
                    f"{name!r} is not a task of this study.{nearest(name, tasks)} Allowed: {', '.join(tasks)}", (*section, name)
                )
    return tuple(tasks.values())


def _resolve_task(study: Study, entry: str | TaskSpec, base: Path) -> TaskSpec:
    name = entry if isinstance(entry, str) else entry.name
    data = _validated(DataSpec, study.data.model_dump(), study.data_per_task.get(name, {}), ("data_per_task", name))
    own = isinstance(entry, TaskSpec) and bool(entry.files or entry.rows_of)
    if data.dataset is None or own:
        task = resolve_task(entry)
        invented = not task.files and task.source_name not in GLUE
        if invented and data.source != "generated":
            raise StudyError(
                f"the task {name!r} is not built in, so it needs `files`: train, validation -> path, `rows_of`: a task, or "
                "a data set of the hub under `data` or `data_per_task`: dataset: OWNER/NAME"
            )
        if invented and len(task.text) > 1:
            raise StudyError(f"the generated task {name!r} has one column of text, and `text` names {len(task.text)}")
        for key in ("text", "labels"):
            if not getattr(task, key):
                raise StudyError(f"the key {key!r} is missing: {_MISSING[key]}")
        return task
    if name in GLUE:
        raise StudyError(
            f"{name!r} is GLUE's own task, and its rows would be {data.dataset}'s: call the task otherwise, or name "
            "`dataset` under `data_per_task` for the other tasks alone"
        )
    from harness.data.hub_task import complete

    return complete(TaskSpec(name=name) if isinstance(entry, str) else entry, data, base)


_MISSING = {"text": "one or two columns of text", "labels": "the names of the classes"}


def task_training(study: Study, task: TaskSpec) -> TrainingSpec:
    """`training` with the task's own fields in place."""
    changed = study.training_per_task.get(task.name, {})
    return _validated(TrainingSpec, study.training.model_dump(), changed, ("training_per_task", task.name))


def check_teachers(study: Study) -> None:
    """Raises StudyError for a teacher's training of a task that is not valid."""
    for index, teacher in enumerate(study.models.teachers):
        for task, changed in teacher.training_per_task.items():
            _validated(Recipe, teacher.training.model_dump(), changed, ("models", "teachers", index, "training_per_task", task))


def resolve_strategies(study: Study) -> list[ResolvedStrategy]:
    """All entries of `strategies:`, in order."""
    found: list[ResolvedStrategy] = []
    for index, entry in enumerate(study.strategies):
        here: KeyPath = ("strategies", index)
        if entry.shown in {other.entry.shown for other in found}:
            raise StudyError(f"{entry.shown!r} appears twice; give one of them a `label` of its own", here)
        if entry.label is not None and (not entry.label.isprintable() or not re.fullmatch(r"[\w(][^/]*", entry.label)):
            raise StudyError(
                f"a label is of printable characters, without a slash, and starts with a letter, a digit or a bracket (tables "
                f"are opened in spreadsheets, where =, + and @ start a formula); got {entry.label!r}",
                (*here, "label"),
            )
        found.append(_strategy(study, entry, here))
    return found


def check_refusals(strategies: Iterable[ResolvedStrategy], tasks: Iterable[TaskSpec]) -> None:
    """Raises StudyError for a strategy that cannot run on one of the tasks, with its settings or what its search reaches."""
    tasks = tuple(tasks)
    for index, one in enumerate(strategies):
        for task in tasks:
            if (reason := one.strategy.refuses(one.settings, len(task.labels))) is not None:
                raise StudyError(f"strategy {one.entry.name!r} on task {task.name!r}: {reason}", ("strategies", index))
            for name, space in one.space.items():
                here: KeyPath = ("strategies", index, "search", name)
                for settings in _reached(name, space, one.settings, here):
                    if (reason := one.strategy.refuses(settings, len(task.labels))) is not None:
                        value = getattr(settings, name)
                        raise StudyError(
                            f"strategy {one.entry.name!r} on task {task.name!r}, where its search reaches {name} = {value}: "
                            f"{reason}",
                            here if one.entry.search else here[:2],
                        )


def check_comparisons(study: Study, strategies: Sequence[ResolvedStrategy]) -> None:
    """Raises StudyError for a declared comparison of what is no strategy of the study, or has no control in it."""
    resolved = {one.entry.shown: one for one in strategies}
    shown = {label: one.entry.name for label, one in resolved.items()}
    declared = study.protocol.comparisons
    if study.protocol.label_budget == "equal_fit":
        said = "under label_budget: equal_fit nobody trains on the meta rows, so that plain KD itself is on equal rows"
        if declared.equal_rows:
            raise StudyError(f"{said}: leave out equal_rows", ("protocol", "comparisons", "equal_rows", 0))
        for index, name in enumerate(shown.values()):
            if EQUAL_ROWS in re.split(r"[()]", name):
                raise StudyError(f"{said}: leave out {EQUAL_ROWS}(...)", ("strategies", index))
    for family in ("primary", "controls", "equal_rows"):
        for index, label in enumerate(getattr(declared, family) or ()):
            here: KeyPath = ("protocol", "comparisons", family, index)
            if label not in shown:
                fault = f"{label!r} is not a strategy of this study.{nearest(label, shown)} Allowed: {', '.join(shown)}"
            elif family == "primary" and kind_of_strategy(shown[label]) == "plain KD":
                fault = f"{label!r} is plain KD itself, with which the primary family is compared"
            elif family == "controls" and label not in families(declared, shown).controls:
                wanted = " or ".join(f"{wrapper}({shown[label]})" for wrapper in CONTROLS)
                fault = f"{label!r} has no control in this study; run {wanted}"
            elif family == "equal_rows" and label not in families(declared, shown).equal_rows:
                fault = f"{label!r} has nothing to be compared with on equal rows; run {EQUAL_ROWS}({BASELINE})"
            elif family == "equal_rows" and not resolved[label].needs.needs_meta_set:
                fault = f"{label!r} has no meta set: it trains on the same rows as plain KD"
            else:
                continue
            raise StudyError(fault, here)


def check_data(study: Study) -> None:
    """Raises StudyError for a task's data that are not valid, and, as far as its files are at hand, for a model of a family
    without text classifiers, without usable weights, the layers that are asked for, or positions for the longest sequence.
    """
    for task, changed in study.data_per_task.items():
        _validated(DataSpec, study.data.model_dump(), changed, ("data_per_task", task))
    longest = max(study.data_for(task if isinstance(task, str) else task.name).max_length for task in study.tasks)
    student = study.models.student
    if study.resources.stacked > 1 and (reason := stacked_refusal(known_configuration(student), student.pooling)):
        raise StudyError(reason, ("resources", "stacked"))
    for where, model in _models(study):
        if reason := files_refusal(model):
            raise StudyError(reason, where)
        known = known_configuration(model)
        inside = model.config is not None
        if not study.plugins and (reason := family_refusal(known)):  # a plugin may bring families of its own
            raise StudyError(reason, (*where, "model_type") if inside else where)
        there = known_layers(known)
        if there is not None and model.layers is not None and (reason := layers_refusal(there, model.layers)):
            raise StudyError(f"the model {reason}", (*where[:-1], "layers"))
        if reason := positions_refusal(known, longest):
            raise StudyError(reason, (*where, "max_position_embeddings") if inside else where)


def _models(study: Study) -> Iterator[tuple[KeyPath, ModelSpec]]:
    """Every model that is loaded or made, with the place in the study that says which."""

    def own(where: KeyPath, model: ModelSpec) -> tuple[KeyPath, ModelSpec]:
        return (*where, "model" if model.config is None else "config"), model

    yield own(("models", "student"), study.models.student)
    for index, teacher in enumerate(study.models.teachers):
        here: KeyPath = ("models", "teachers", index)
        if teacher.fine_tuned is not None:
            yield from (((*here, "fine_tuned", task), teacher.checkpoint(task)) for task in teacher.fine_tuned)
        elif teacher.outputs is None:
            yield own(here, teacher)


def check_watchers(study: Study) -> None:
    """Raises StudyError for a tracker that is not installed."""
    for index, name in enumerate(study.watch):
        if importlib.util.find_spec(name) is None:
            raise StudyError(f"{name!r} is not installed here: python -m pip install -e '.[{name}]'", ("watch", index))


def shared_space(study: Study, training: Mapping[str, TrainingSpec]) -> dict[str, Range]:
    """The ranges of `training` fields that all cells search."""
    for name, space in study.search.space.items():
        for one in training.values():
            for _ in _reached(name, space, one, ("search", "space", name)):
                pass
    return study.search.space


def _strategy(study: Study, entry: StrategyEntry, here: KeyPath) -> ResolvedStrategy:
    try:
        strategy = resolve(entry.name)
    except UnknownStrategyError as error:
        raise StudyError(str(error), (*here, "name")) from error
    settings = _validated(strategy.strategy.Settings, {}, entry.settings, (*here, "settings"))
    if entry.search is not None:
        space = entry.search
    else:  # a value that the study fixes is not searched, unless the study gives its range too
        space = {k: v for k, v in strategy.strategy.Settings.search_space.items() if k not in entry.settings}
    needs = [strategy.needs(settings)]
    for name, one in space.items():
        ends = [strategy.needs(reached) for reached in _reached(name, one, settings, (*here, "search", name))]
        if not isinstance(one, Choice):
            check_range(entry.name, name, ends, (*here, "search", name))
        needs += ends
    teachers = _teachers(study, entry, needs, here)
    if reason := teacher_refusal(strategy, settings, space, sizes_in_the_study(teachers)):
        raise StudyError(reason, (*here, "settings"))
    outputs = check_terms(study, entry.name, needs, teachers, here)
    return ResolvedStrategy(entry, strategy, settings, needs[0], teachers, dict(space), outputs)


def _validated(model: type[M], defaults: Mapping[str, Any], given: Mapping[str, Any], where: KeyPath) -> M:
    try:
        return model.model_validate({**defaults, **given})
    except ValidationError as error:
        path, text = faults(error, {**defaults, **given}, model)[0]
        raise StudyError(text, (*where, *path)) from error


def _reached(name: str, space: Range, holder: M, where: KeyPath) -> Iterator[M]:
    """`holder` with each end of a range, or each value of a choice, in the place of `name`: all of them have to be allowed."""
    fields = type(holder).model_fields
    if name not in fields:
        raise StudyError(
            f"{name!r} is nothing that can be searched here.{nearest(name, fields)} Allowed: {', '.join(fields) or 'none'}",
            where,
        )
    for value in space.values if isinstance(space, Choice) else (space.low, space.high):
        try:
            changed = type(holder).model_validate({**holder.model_dump(), name: value})
        except ValidationError as error:
            text = faults(error, {**holder.model_dump(), name: value}, type(holder))[0][1]
            raise StudyError(f"the range reaches a value that {name} does not take: {text}", where) from error
        if isinstance(space, FloatRange) and isinstance(getattr(changed, name), int):
            raise StudyError(f"{name} takes whole numbers; give the range `type: int`", where)
        yield changed


def _teachers(study: Study, entry: StrategyEntry, needs: list[Needs], here: KeyPath) -> tuple[TeacherSpec, ...]:
    by_name = {teacher.name: teacher for teacher in study.models.teachers}
    for position, name in enumerate(entry.teachers or []):
        if name not in by_name:
            raise StudyError(
                f"no teacher is called {name!r}.{nearest(name, by_name)} Allowed: {', '.join(by_name)}",
                (*here, "teachers", position),
            )
    chosen = tuple(by_name[name] for name in dict.fromkeys(entry.teachers or by_name))
    for fewest, most in (one.teachers for one in needs):
        if len(chosen) < fewest or (most is not None and len(chosen) > most):
            wanted = f"{fewest}" if fewest == most else f"{fewest} or more" if most is None else f"{fewest} to {most}"
            raise StudyError(
                f"strategy {entry.name!r} takes {wanted} teacher(s) and is given {len(chosen)} "
                f"({', '.join(teacher.name for teacher in chosen)}). Choose with `teachers: [NAME]` under the strategy",
                here,
            )
    return chosen
