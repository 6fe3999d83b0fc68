"""From a study to its cells and trials: what will be run, with which seeds. No torch, no Ray, no data."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.errors import StudyError
from harness.prepared import PreparedTask
from harness.records import Seeds, TrialSpec
from harness.seeds import derive_seed
from harness.study import StrategyEntry, Study, TaskResources, TaskSpec, TeacherSpec, TrainingSpec
from harness.study_file import describe_validation
from harness.tasks import resolve_task
from strategies.base import Needs, Settings
from strategies.registry import Registered, UnknownStrategyError, load_plugin, resolve
from strategies.space import Choice, FloatRange, Range, Value

SHARED = "training."
"""Prefix of a search-space key that names a field of `training`."""


@dataclass(frozen=True)
class Cell:
    """(task, strategy, repeat): one search of its own, then its final runs."""

    task: TaskSpec
    entry: StrategyEntry
    repeat: int
    strategy: Registered
    settings: Settings
    """The strategy's hyper-parameters in trial 0, complete."""
    needs: Needs
    teachers: tuple[TeacherSpec, ...]
    training: TrainingSpec
    """As trial 0 trains."""
    space: Mapping[str, Range]
    """What the search varies: `training.<field>`, or a setting of the strategy."""
    trials: int
    final_repeats: int
    """How many seeds the best configuration is run with after the search; 0 where the search's best trial is the result."""
    resources: TaskResources

    @property
    def id(self) -> str:
        return f"{self.task.name}/{self.entry.shown}/{self.repeat}"


@dataclass(frozen=True)
class Plan:
    study: Study
    base: Path
    tasks: tuple[TaskSpec, ...]
    cells: tuple[Cell, ...]
    warnings: tuple[str, ...] = field(default=())
    """What the protocol misses in this study."""

    @property
    def teacher_features(self) -> bool:
        """Whether any strategy wants the teachers' pooled features."""
        return any(cell.needs.teacher_features for cell in self.cells)

    @property
    def trials(self) -> int:
        """Searches and final runs together."""
        return sum(cell.trials + cell.final_repeats for cell in self.cells)


def make_plan(study: Study, base: Path) -> Plan:
    """The study's cells. `base` is where its relative paths start.

    Loads the study's plugins. Raises StudyError (with `where` set) for anything that could not be run.
    """
    for index, plugin in enumerate(study.plugins):
        try:
            load_plugin(base / plugin)
        except Exception as error:
            raise StudyError(f"the plugin cannot be loaded: {type(error).__name__}: {error}", ("plugins", index)) from error
    tasks = _tasks(study)
    _check_labels(study)
    for section, names in (("training_per_task", study.training_per_task), ("resources", study.resources.per_task)):
        for name in names:
            if name not in {task.name for task in tasks}:
                where = (section, name) if section == "training_per_task" else ("resources", "per_task", name)
                raise StudyError(f"{name!r} is not a task of this study: {', '.join(t.name for t in tasks)}", where)
    winner = study.search.repeat == "winner"
    cells = tuple(
        _cell(study, task, index, repeat, winner)
        for repeat in range(1 if winner else study.search.repeats)
        for task in tasks
        for index in range(len(study.strategies))
    )
    return Plan(study, base, tasks, cells, _protocol_warnings(study, cells))


def trial_spec(
    plan: Plan,
    cell: Cell,
    index: int,
    values: Mapping[str, Value],
    prepared: Mapping[str, PreparedTask],
    *,
    final_repeat: int | None = None,
) -> TrialSpec:
    """One trial of a cell: its defaults with `values` in their place.

    Seeds come from (study seed, task, repeat, purpose): the trials of a cell, and all strategies, share them.
    """
    study = plan.study
    repeat = cell.repeat if final_repeat is None else final_repeat
    shared = {key.removeprefix(SHARED): value for key, value in values.items() if key.startswith(SHARED)}
    own = {key: value for key, value in values.items() if not key.startswith(SHARED)}
    ready = prepared[cell.task.name]
    return TrialSpec(
        study=study.name,
        task=cell.task,
        strategy=cell.entry.name,
        label=cell.entry.shown,
        settings=cell.strategy.settings({**cell.settings.model_dump(), **own}).model_dump(mode="json"),
        repeat=repeat,
        index=index,
        purpose="search" if final_repeat is None else "final",
        data=study.data,
        student=study.models.student,
        teachers=list(cell.teachers),
        training=TrainingSpec.model_validate({**cell.training.model_dump(), **shared}),
        seeds=Seeds(
            **{
                purpose: derive_seed(study.seed, cell.task.name, repeat, purpose)
                for purpose in ("student", "order", "dropout", "strategy")
            }
        ),
        label_budget=study.protocol.label_budget,
        protocol_version=study.protocol.version,
        resources=TaskResources.model_validate(cell.resources.model_dump(include=set(TaskResources.model_fields))),
        plugins=[str((plan.base / plugin).resolve()) for plugin in study.plugins],
        strategy_code=cell.strategy.code_digest,
        data_digest=ready.data_digest,
        student_digest=ready.student_digest,
        teacher_digests=[ready.teacher_digests[teacher.name] for teacher in cell.teachers],
    )


def final_specs(
    plan: Plan, cell: Cell, prepared: Mapping[str, PreparedTask], best: tuple[int, Mapping[str, Value]] | None
) -> list[TrialSpec]:
    """The runs after a cell's search: its best configuration with each repeat's seeds (`repeat: winner`).

    A search that failed altogether (`best` is None) is represented by its default.
    """
    index, values = best or (0, {})
    return [trial_spec(plan, cell, index, values, prepared, final_repeat=r) for r in range(cell.final_repeats)]


def _tasks(study: Study) -> tuple[TaskSpec, ...]:
    tasks = []
    for index, entry in enumerate(study.tasks):
        try:
            tasks.append(resolve_task(entry))
        except StudyError as error:
            raise StudyError(str(error), ("tasks", index)) from error
        if tasks[-1].name in {task.name for task in tasks[:-1]}:
            raise StudyError(f"the task {tasks[-1].name!r} is named twice", ("tasks", index))
    return tuple(tasks)


def _check_labels(study: Study) -> None:
    seen: set[str] = set()
    for index, entry in enumerate(study.strategies):
        if entry.shown in seen:
            raise StudyError(f"{entry.shown!r} appears twice; give one of them a `label` of its own", ("strategies", index))
        seen.add(entry.shown)


def _cell(study: Study, task: TaskSpec, index: int, repeat: int, winner: bool) -> Cell:
    entry = study.strategies[index]
    here: tuple[str | int, ...] = ("strategies", index)
    try:
        strategy = resolve(entry.name)
    except UnknownStrategyError as error:
        raise StudyError(str(error), (*here, "name")) from error
    try:
        settings = strategy.settings(entry.settings)
    except ValidationError as error:
        text, location = describe_validation(error, strategy.strategy.Settings)
        raise StudyError(f"strategy {entry.name!r}: {text}", (*here, "settings", *location)) from error
    needs = strategy.needs(settings)
    teachers = _teachers(study, entry, needs, here)
    training = _training(study, task)
    space = _space(study, entry, strategy, settings, training, here)
    return Cell(
        task=task,
        entry=entry,
        repeat=repeat,
        strategy=strategy,
        settings=settings,
        needs=needs,
        teachers=teachers,
        training=training,
        space=space,
        trials=study.search.trials if space else 1,
        final_repeats=study.search.repeats if winner else 0,
        resources=study.resources.for_task(task.name),
    )


def _teachers(study: Study, entry: StrategyEntry, needs: Needs, here: tuple[str | int, ...]) -> tuple[TeacherSpec, ...]:
    by_name = {teacher.name: teacher for teacher in study.models.teachers}
    for position, name in enumerate(entry.teachers or []):
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise StudyError(
                f"no teacher is called {name!r}.{hint} Teachers: {', '.join(by_name)}", (*here, "teachers", position)
            )
    chosen = tuple(by_name[name] for name in entry.teachers) if entry.teachers else tuple(by_name.values())
    fewest, most = needs.teachers
    if len(chosen) < fewest or (most is not None and len(chosen) > most):
        wanted = f"{fewest}" if fewest == most else f"{fewest} or more" if most is None else f"{fewest} to {most}"
        raise StudyError(
            f"strategy {entry.name!r} needs {wanted} teacher(s) and is given {len(chosen)} "
            f"({', '.join(teacher.name for teacher in chosen)}). Choose with `teachers: [NAME]` under the strategy",
            here,
        )
    return chosen


def _training(study: Study, task: TaskSpec) -> TrainingSpec:
    changed = study.training_per_task.get(task.name, {})
    try:
        return TrainingSpec.model_validate({**study.training.model_dump(), **changed})
    except ValidationError as error:
        text, location = describe_validation(error, TrainingSpec)
        raise StudyError(text, ("training_per_task", task.name, *location)) from error


def _space(
    study: Study,
    entry: StrategyEntry,
    strategy: Registered,
    settings: Settings,
    training: TrainingSpec,
    here: tuple[str | int, ...],
) -> dict[str, Range]:
    if study.search.trials == 1:
        return {}
    own = entry.search if entry.search is not None else dict(strategy.strategy.Settings.search_space)
    # a value that the study fixes is not searched, unless the study also gives its range
    if entry.search is None:
        own = {name: space for name, space in own.items() if name not in entry.settings}
    for name, space in own.items():
        _check_space(name, space, settings, (*here, "search", name))
    for name, space in study.search.space.items():
        _check_space(name, space, training, ("search", "space", name))
    return {**{SHARED + name: space for name, space in study.search.space.items()}, **own}


def _check_space(name: str, space: Range, holder: Any, where: tuple[str | int, ...]) -> None:
    model = type(holder)
    if name not in model.model_fields:
        near = difflib.get_close_matches(name, model.model_fields, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise StudyError(f"{name!r} cannot be searched.{hint} Fields: {', '.join(model.model_fields) or 'none'}", where)
    ends: list[Value] = list(space.values) if isinstance(space, Choice) else [space.low, space.high]
    for value in ends:
        try:
            model.model_validate({**holder.model_dump(), name: value})
        except ValidationError as error:
            text, _ = describe_validation(error, model)
            raise StudyError(f"the range reaches {value!r}, which {name!r} does not allow: {text}", where) from error


def _protocol_warnings(study: Study, cells: tuple[Cell, ...]) -> tuple[str, ...]:
    names = {entry.name for entry in study.strategies}
    warnings = []
    missing = [name for name in ("ce_only", "kd_only", "fixed_alpha", "random_weights") if name not in names]
    if missing:
        warnings.append(f"the protocol's references are not all run: {', '.join(missing)} missing")
    learned = sorted({cell.entry.name for cell in cells if cell.strategy.strategy.learned and not cell.strategy.wrappers})
    controls = [f"{kind}({name})" for name in learned for kind in ("shuffled", "batch_mean")]
    if absent := [control for control in controls if control not in names]:
        warnings.append(f"learned strategies without their controls: {', '.join(absent)} missing")
    if study.search.repeat == "winner":
        warnings.append("repeat: winner hides the variance of the search; the table says so")
    return tuple(warnings)


def grid_levels(space: Range, levels: int) -> list[Value]:
    """Evenly spaced values of a range (in its scale), or all values of a choice."""
    if isinstance(space, Choice):
        return list(space.values)
    steps = [i / (levels - 1) for i in range(levels)] if levels > 1 else [0.5]
    if space.log:
        values = [space.low * (space.high / space.low) ** step for step in steps]
    else:
        values = [space.low + (space.high - space.low) * step for step in steps]
    if isinstance(space, FloatRange):
        return list(values)
    return sorted({round(value) for value in values})
