"""From a study to its cells and trials: what will be run, with which seeds. No torch, no Ray, no data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import StudyError, with_place
from harness.numeric_code import numeric_code
from harness.plan.batch_checks import check_batch_sizes
from harness.plan.checks import (
    check_comparisons,
    check_data,
    check_refusals,
    check_teachers,
    check_watchers,
    resolve_strategies,
    resolve_tasks,
    shared_space,
    task_training,
)
from harness.plan.foreign_teachers import check_foreign_teachers
from harness.plan.grid import grid_trials
from harness.plan.prepared import PreparedTask
from harness.records import Seeds, TrialSpec
from harness.seeds import derive_seed
from harness.study.file import read_study
from harness.study.protocol import protocol_warnings
from harness.study.resources import TaskResources
from harness.study.schema import StrategyEntry, Study, TeacherSpec, TrainingSpec
from harness.study.tasks import GLUE, TaskSpec
from strategies.base import Needs, Settings
from strategies.registry import Registered, load_plugin
from strategies.space import Range, Value

SHARED = "training."
"""Prefix of a search-space key that names a field of `training`; the others are the strategy's own settings."""


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
    """What it asks for in trial 0."""
    teachers: tuple[TeacherSpec, ...]
    training: TrainingSpec
    """As trial 0 trains."""
    space: Mapping[str, Range]
    """What the search varies: `training.<field>`, or a setting of the strategy."""
    trials: int
    """Of the search, the default included."""
    final_repeats: int
    """How many seeds the best configuration is run with after the search; 0 where the search's best trial is the result."""
    resources: TaskResources

    @property
    def id(self) -> str:
        return f"{self.task.name}/{self.entry.shown}/{self.repeat}"

    @property
    def default_values(self) -> dict[str, Any]:
        """Trial 0's value of every key of `space`."""
        return default_values(self.space, self.settings, self.training)


@dataclass(frozen=True)
class Plan:
    study: Study
    base: Path
    """Where the study's relative paths start."""
    tasks: tuple[TaskSpec, ...]
    cells: tuple[Cell, ...]
    """All cells of the first repeat, then those of the next: what is done of a study that is stopped is a whole table."""
    teacher_outputs: Mapping[str, tuple[str, ...]]
    """What the trials want of each teacher, by its name, beside its logits (`harness.data.output_names`)."""
    warnings: tuple[str, ...] = ()
    """What the protocol misses in this study."""
    rerun_other_code: bool = False
    """Trials that the store holds of another form of the harness's code are run again (`harness.plan.other_code`)."""

    @property
    def used_teachers(self) -> tuple[TeacherSpec, ...]:
        """Those that some strategy takes, as the study has them. No other one is made."""
        names = {teacher.name for cell in self.cells for teacher in cell.teachers}
        return tuple(teacher for teacher in self.study.models.teachers if teacher.name in names)

    @property
    def trials(self) -> int:
        """Searches and final runs together."""
        return sum(cell.trials + cell.final_repeats for cell in self.cells)


def load_plan(path: str | Path, overrides: Sequence[str] = ()) -> Plan:
    """The plan of a study file. Raises StudyError with file, line and key."""
    file = read_study(path, overrides)
    with file.locating_errors():
        return make_plan(file.study, file.base)


def make_plan(study: Study, base: Path) -> Plan:
    """The study's cells. `base` is where its relative paths start.

    Loads the study's plugins. Raises StudyError (with `where` set) for anything that could not be run.
    """
    for index, plugin in enumerate(study.plugins):
        try:
            load_plugin(base / plugin)
        except Exception as error:  # a plugin may raise anything
            found = (
                f"{type(error).__name__}: {error}" if isinstance(error, FileNotFoundError) else with_place(error, base / plugin)
            )
            raise StudyError(f"the plugin cannot be loaded: {found}", ("plugins", index)) from error
    tasks = resolve_tasks(study, base)
    # a task that was completed from its data set is kept so: reports and reproductions need no hub
    named = [entry if entry == task.name and entry in GLUE else task for entry, task in zip(study.tasks, tasks, strict=True)]
    study = study.model_copy(update={"tasks": named})
    check_foreign_teachers(study, tasks, base)
    strategies = resolve_strategies(study)
    check_refusals(strategies, tasks)
    check_comparisons(study, strategies)
    check_data(study)
    check_teachers(study)
    check_watchers(study)
    training = {task.name: task_training(study, task) for task in tasks}
    check_batch_sizes(study, training)
    shared = {SHARED + name: space for name, space in shared_space(study, training).items()}
    searches = study.search.trials > 1
    winner = study.search.repeat == "winner"
    cells = []
    for repeat in range(1 if winner else study.search.repeats):
        for task in tasks:
            for one in strategies:
                space = {**shared, **one.space} if searches else {}
                cell = Cell(
                    task=task,
                    entry=one.entry,
                    repeat=repeat,
                    strategy=one.strategy,
                    settings=one.settings,
                    needs=one.needs,
                    teachers=tuple(teacher.for_task(task.name) for teacher in one.teachers),
                    training=training[task.name],
                    space=space,
                    trials=_trials(study, space, default_values(space, one.settings, training[task.name])),
                    final_repeats=study.search.repeats if winner else 0,
                    resources=_resources(study, task),
                )
                cells.append(cell)
    outputs = {
        teacher.name: tuple(sorted({output for one in strategies if teacher in one.teachers for output in one.teacher_outputs}))
        for teacher in study.models.teachers
    }
    return Plan(study, base, tasks, tuple(cells), outputs, protocol_warnings(study))


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

    Seeds come from (study seed, task, repeat, purpose): the trials of a cell, and all strategies, share them. Final runs have
    others than the search that chose them.
    """
    study = plan.study
    final = final_repeat is not None
    repeat = cell.repeat if final_repeat is None else final_repeat
    shared = {key.removeprefix(SHARED): value for key, value in values.items() if key.startswith(SHARED)}
    own = {key: value for key, value in values.items() if not key.startswith(SHARED)}
    root = (study.seed, cell.task.name, repeat, *(("final",) if final else ()))
    ready = prepared[cell.task.name]
    return TrialSpec(
        study=study.name,
        task=cell.task,
        strategy=cell.entry.name,
        label=cell.entry.shown,
        settings=cell.strategy.settings({**cell.settings.model_dump(), **own}).model_dump(mode="json"),
        repeat=repeat,
        index=index,
        purpose="final" if final else "search",
        data=study.data_for(cell.task.name),
        student=study.models.student,
        teachers=list(cell.teachers),
        training=TrainingSpec.model_validate({**cell.training.model_dump(), **shared}),
        seeds=Seeds(**{purpose: derive_seed(*root, purpose) for purpose in Seeds.model_fields}),
        label_budget=study.protocol.label_budget,
        protocol_version=study.protocol.version,
        resources=cell.resources,
        plugins=[str((plan.base / plugin).resolve()) for plugin in study.plugins],
        strategy_code=cell.strategy.code_digest,
        harness_code=numeric_code(),
        hub_commits=ready.hub_commits,
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


def default_values(space: Mapping[str, Range], settings: Settings, training: TrainingSpec) -> dict[str, Any]:
    """The default of every key of `space`."""
    own, shared = settings.model_dump(), training.model_dump()
    return {key: shared[key.removeprefix(SHARED)] if key.startswith(SHARED) else own[key] for key in space}


def _trials(study: Study, space: Mapping[str, Range], defaults: Mapping[str, Any]) -> int:
    if not space:  # nothing to vary: all trials of the cell would be the same
        return 1
    if study.search.sampler == "grid":
        return 1 + len(grid_trials(space, defaults, study.search.trials))
    return study.search.trials


def _resources(study: Study, task: TaskSpec) -> TaskResources:
    found = study.resources.for_task(task.name)
    own = {name: getattr(found, name) for name in TaskResources.model_fields}
    return TaskResources(**own | ({"checkpoint_seconds": 0} if study.keep_checkpoints else {}))
