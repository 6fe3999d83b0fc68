"""`python -m harness plan STUDY --detect POINTS`: how many repeats, rows and hours the study needs to see a difference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import norm
from tabulate import tabulate

from harness.errors import UserError
from harness.plan.cost import cell_cost, planned_rows
from harness.plan.plan import Plan
from harness.report.spreads import task_spreads
from harness.stats import LEVEL
from harness.stats.bootstrap import freedom_of_sum
from harness.stats.power import POWER, Spread
from harness.study.comparisons import families

PILOT = "_pilot"
"""Ending of a pilot's name."""


def describe_pilot(plan: Plan, study: str, repeats: int, student_per_second: float, teacher_per_second: float) -> str:
    """What a pilot would take, and its command; `study`: file and changes as they were given."""
    hours = sum(_hours(plan, student_per_second, teacher_per_second).values()) * repeats
    return (
        f"A pilot of {repeats} repeats, {hours:,.1f} GPU-hours for students, then this again:\n"
        f"python -m harness run {study} --set name={plan.study.name}{PILOT} --set search.repeats={repeats}"
    )


def describe_power(
    plan: Plan, points: float, stores: Sequence[Path], student_per_second: float, teacher_per_second: float
) -> str:
    """Text for the terminal. `stores`: earlier results to learn spreads from; else the study's own folder and its pilot's.

    Raises UserError where no store tells the spread of any of its tasks.
    """
    study, effect = plan.study, points / 100
    folder = Path(study.results)
    looked = list(stores) or [path for path in (folder / study.name, folder / (study.name + PILOT)) if path.is_dir()]
    found = task_spreads(looked)
    # a task that was never run, of rows with flipped labels, say: the spread of the task whose rows it has
    source_of = {task.name: task.name if task.name in found else task.source_name for task in plan.tasks}
    known = {task: found[source] for task, source in source_of.items() if source in found}
    if not known:
        raise UserError(
            f"--detect {points:g}: no earlier store tells how much differences vary on these tasks "
            f"(looked in {', '.join(map(str, looked)) or 'none'}). Name one with --from RESULTS, or see --pilot 3"
        )
    compared = max(len(families(study.protocol.comparisons, {e.shown: e.name for e in study.strategies}).primary), 1)
    level, repeats = LEVEL / compared, study.search.repeats
    hours_of = _hours(plan, student_per_second, teacher_per_second)
    table, used = [], []
    for task in plan.tasks:
        spread = known.get(task.name)
        if spread is None:
            table.append([task.name, *["?"] * 6])
            continue
        planned = planned_rows(task, study.data_for(task.name))
        rows = planned.headline if planned is not None and planned.headline else spread.rows
        one = Spread(spread.examples / rows, spread.repeat, units=6)  # a task by itself is not tested by sign-flips
        hours = hours_of.get(task.name, float("nan"))
        table.append(
            [task.name, f"{rows:,}", f"{100 * one.examples**0.5:.2f}", f"{100 * one.repeat**0.5:.2f}",
             _points(one.detectable(repeats, level)), _many(one.repeats_for(effect, level)), f"{hours:,.2f}"]
        )  # fmt: skip
        if spread.in_mean:
            used.append((task, spread, one, hours))
    lines = [
        f"To see {points:g} points in four of five studies, corrected for {compared} comparisons (spreads from "
        f"{', '.join(sorted({str(spread.store) for spread in known.values()}))}):",
        "",
        tabulate(
            table,
            [
                "task",
                "rows",
                "error\nby rows",
                "sd of a\nrepeat",
                f"seen with\n{repeats} repeats",
                "repeats\nneeded",
                "hours\na repeat",
            ],
            disable_numparse=True,
            colalign=["left"] + ["right"] * 6,
        ),
        "",
    ]
    if used:
        mean = _mean([one for *_, one, _ in used], len({task.source_name for task, *_ in used}))
        needed = mean.repeats_for(effect, level)
        seen = _points(mean.detectable(repeats, level))
        said = f"Mean over {len(used)} tasks: {repeats} repeats see {seen}; {points:g} points need "
        if needed is not None:
            hours = needed * sum(hours_of.values())
            lines.append(said + f"{needed} repeats, {hours:,.1f} GPU-hours for students.")
        else:  # with many repeats the rows alone are left; their error has to be this small
            factor = mean.examples / (effect / (norm.ppf(1 - level / 2) + norm.ppf(POWER))) ** 2
            lines.append(said + f"{factor:.1f} times the rows to report on, and then repeats: no number of repeats is enough.")
        costs = [hours * one.repeat for *_, one, hours in used]
        if np.isfinite(costs).all() and sum(costs) > 0:
            name = used[int(np.argmax(costs))][0].name
            lines.append(
                f"Dearest per bit of certainty: {name}, {max(costs) / sum(costs):.0%} of hours x variance of a repeat."
            )
    if lent := [f"{task} by {source}" for task, source in source_of.items() if task in known and source != task]:
        lines.append(f"Never run, their spread is taken from the task whose rows they have: {', '.join(lent)}.")
    if left_out := [task for task, spread in known.items() if not spread.in_mean]:
        lines.append(f"In no mean, as students were at the majority class: {', '.join(left_out)}.")
    return "\n".join(lines)


def _mean(each: list[Spread], sets: int) -> Spread:
    """Of the mean over tasks; rows that tasks share are taken as rows of their own, as stores of one task know no better."""
    count = len(each)
    repeats = np.array([s.repeat for s in each])
    alike = min(float(freedom_of_sum(repeats, 1)), count)  # of one more repeat
    return Spread(sum(s.examples for s in each) / count**2, float(repeats.sum()) / count**2, count, alike, sets)


def _hours(plan: Plan, student_per_second: float, teacher_per_second: float) -> dict[str, float]:
    """Task -> GPU-hours of one repeat of all strategies, without the teachers' own training."""
    found: dict[str, float] = {}
    for cell in plan.cells:
        cost = cell_cost(plan, cell)
        if cost is not None:
            hours = cost.student.hours(student_per_second) + cost.live_teacher.hours(teacher_per_second)
            found[cell.task.name] = found.get(cell.task.name, 0.0) + hours / plan.study.search.repeats
    return found


def _points(value: float) -> str:
    return "none" if np.isinf(value) else f"{100 * value:.1f}"


def _many(repeats: int | None) -> str:
    return "more rows" if repeats is None else str(repeats)
