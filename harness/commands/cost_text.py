"""A plan and its estimated cost, as text for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from harness.cache import cache_folder
from harness.commands.memory_probe import known_needs
from harness.loss_terms.registry import graphs_refusal
from harness.plan.cost import (
    STUDENT_SAMPLES_PER_SECOND,
    TEACHER_SAMPLES_PER_SECOND,
    CellCost,
    Passes,
    RowCounts,
    cell_cost,
    planned_engine,
    planned_rows,
    read_sizes,
    teacher_passes,
)
from harness.plan.plan import Cell, Plan
from harness.plan.search import STARTUP_TRIALS
from harness.stats import LEVEL, smallest_p
from harness.study.comparisons import families
from harness.study.tasks import TaskSpec


def describe(
    plan: Plan,
    student_per_second: float = STUDENT_SAMPLES_PER_SECOND,
    teacher_per_second: float = TEACHER_SAMPLES_PER_SECOND,
) -> str:
    """Cells, trials, rows, steps, passes and GPU-hours, by task and by strategy. The rates are training samples a second."""
    study = plan.study
    read, unknown = read_sizes(plan)
    costs = [(cell, cell_cost(plan, cell, read.get(cell.task.name))) for cell in plan.cells]
    sizes = {task.name: planned_rows(task, study.data_for(task.name), read.get(task.name)) for task in plan.tasks}

    def hours(found: Sequence[CellCost]) -> float:
        students = sum((cost.student for cost in found), Passes()).hours(student_per_second)
        return students + sum((cost.live_teacher for cost in found), Passes()).hours(teacher_per_second)

    def teacher_cost(task: TaskSpec, rows: RowCounts) -> Passes:
        teachers = [(one.for_task(task.name), plan.teacher_outputs[one.name]) for one in plan.used_teachers]
        return sum((teacher_passes(one, rows, outputs) for one, outputs in teachers), Passes())

    tasks = []
    for task in plan.tasks:
        mine = [(cell, cost) for cell, cost in costs if cell.task.name == task.name]
        found = [cost for _, cost in mine if cost is not None]
        trials = sum(cell.trials + cell.final_repeats for cell, _ in mine)
        rows = sizes[task.name]
        if rows is None:
            tasks.append([task.name, len(mine), trials, *["?"] * 7])
            continue
        student = sum((cost.student for cost in found), Passes())
        prepared = teacher_cost(task, rows)
        teacher = prepared + sum((cost.live_teacher for cost in found), Passes())
        total = hours(found) + prepared.hours(teacher_per_second)
        steps = sum(cost.steps for cost in found)
        passes = (student.forward, student.backward, teacher.forward, teacher.backward)
        tasks.append([task.name, len(mine), trials, f"{rows.train:,}", f"{steps:,}", *map(_short, passes), f"{total:,.2f}"])

    strategies = []
    for entry in study.strategies:
        own = [(cell, cost) for cell, cost in costs if cell.entry.shown == entry.shown]
        cell: Cell = own[0][0]
        known = [cost for _, cost in own if cost is not None]
        searched = ", ".join(name.removeprefix("training.") for name in cell.space) or "nothing"
        strategies.append([entry.shown, _extra_cost(cell), cell.trials, cell.final_repeats, f"{hours(known):,.2f}", searched])

    students = hours([cost for _, cost in costs if cost is not None])
    known_sizes = [(task, rows) for task in plan.tasks if (rows := sizes[task.name]) is not None]
    teachers = sum(teacher_cost(task, rows).hours(teacher_per_second) for task, rows in known_sizes)
    task_headers = ["task", "cells", "trials", "train rows", "steps"]
    task_headers += [f"{model}\n{kind}" for model in ("student", "teacher") for kind in ("forward", "backward")]
    strategy_headers = ["strategy", "extra cost", "trials\na cell", "final\nruns", "GPU-hours", "searched"]
    lines = [
        f"{study.name}: {len(plan.tasks)} tasks x {len(study.strategies)} strategies x {study.search.repeats} repeats "
        f"(repeat: {study.search.repeat}) = {len(plan.cells)} cells, {plan.trials} trials",
        "",
        tabulate(tasks, [*task_headers, "GPU-hours"], disable_numparse=True, colalign=["left"] + ["right"] * 9),
        "",
        tabulate(
            strategies,
            strategy_headers,
            disable_numparse=True,
            colalign=["left", "left", "right", "right", "right", "left"],
            maxcolwidths=[None] * 5 + [50],
        ),
        "",
        f"{students + teachers:,.1f} GPU-hours: {students:,.1f} for students, {teachers:,.1f} for teachers (fine-tuned once "
        "per task, their outputs cached).",
        f"ASSUMED, not measured: one GPU trains {student_per_second:g} student and {teacher_per_second:g} teacher samples a "
        "second, and a forward pass takes a third of that. Give your own rates with --student-samples-per-second and "
        "--teacher-samples-per-second.",
        "Passes are samples (M: millions) through a model, at most: a strategy's extra passes are taken from its declared cost "
        "class, row counts from GLUE's own splits, or from the rows of tasks of your own, with the study's caps.",
    ]
    lines += _packing(plan)
    lines += [f"Not in the sum: {task}, as its rows cannot be read now: {reason}" for task, reason in unknown.items()]
    lines += _comparisons(plan)
    lines += [f"note: {warning}" for warning in (*plan.warnings, *graph_notes(plan))]
    return "\n".join(lines)


def graph_notes(plan: Plan) -> list[str]:
    """A line for each reason why `training.compile: graphs` is without effect: what Ray's workers warn of is in their logs."""
    without: dict[str, set[str]] = {}
    for cell in plan.cells:
        refusal = graphs_refusal(cell.needs, cell.resources.workers, cell.resources.gpus_per_worker > 0)
        if refusal and cell.training.compile == "graphs":
            without.setdefault(refusal, set()).add(cell.entry.shown)
    return [
        f"training.compile: graphs is without effect where a trial {refusal}: {', '.join(sorted(names))}"
        for refusal, names in without.items()
    ]


def _comparisons(plan: Plan) -> list[str]:
    """The declared families, and whether so many runs can show anything."""
    study = plan.study
    found = families(study.protocol.comparisons, {entry.shown: entry.name for entry in study.strategies})
    data_sets = len({task.source_name for task in plan.tasks})
    units = data_sets * study.search.repeats
    said = [
        f"Declared: {len(found.primary)} comparisons with plain KD over tasks, {len(found.controls)} strategies with their own "
        f"controls; everything else is explored. Margin of equivalence: {study.protocol.margin:g} points."
    ]
    if found.equal_rows:
        (without,) = next(iter(found.equal_rows.values()))
        said.append(f"On equal rows, declared: {', '.join(found.equal_rows)} with {without}.")
    for task in plan.tasks:
        if rows := study.data_for(task.name).report_from_train:
            said.append(f"Scores of {task.name} are of {rows:,} rows of train that nobody trains on or chooses by.")
    if any(1 < cell.trials <= STARTUP_TRIALS for cell in plan.cells):
        said.append(
            f"note: a search of {study.search.trials} trials is the default and draws that all strategies of a (task, repeat) "
            f"share; it is a search of each strategy's own from {STARTUP_TRIALS + 1} trials on."
        )
    if smallest_p(units) >= LEVEL:
        said.append(
            f"note: {data_sets} data sets x {study.search.repeats} repeats allow no p below {smallest_p(units):.2g}: this "
            "study cannot call anything better or worse; six or more can."
        )
    return said


def _packing(plan: Plan) -> list[str]:
    measured = [cell for cell in plan.cells if cell.resources.packing == "measured"]
    if not measured:
        return []
    known = known_needs(cache_folder())
    sizes = [f"{need.peak_bytes / 2**30:.2f}" for need in (known[-1], known[0])] if known else []
    so_far = f"{len(known)} kinds of trials, {' to '.join(dict.fromkeys(sizes))} GiB a worker" if known else "nothing yet"
    return [
        f"Trials of {len(measured)} cells are packed by the memory that a probe of a few steps finds them to need, once for "
        f"each student, batch size and kind of strategy. In this machine's cache: {so_far} (`python -m harness doctor`)."
    ]


def _extra_cost(cell: Cell) -> str:
    """The declared class, and the engine of a look-ahead."""
    declared = cell.strategy.strategy.cost.value
    return f"{declared} ({found})" if (found := planned_engine(cell)) else declared


def _short(passes: int) -> str:
    return f"{passes:,}" if passes < 1_000_000 else f"{passes / 1e6:,.1f} M"
