"""What a study will cost, estimated from row counts before anything is loaded."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from harness.plan import Cell, Plan
from harness.study import DataSpec, TaskSpec
from harness.tasks import official_rows
from strategies.base import Cost

STUDENT_SAMPLES_PER_SECOND = 1500.0
TEACHER_SAMPLES_PER_SECOND = 500.0
"""Assumed where the user gives no figures: training samples (one forward and one backward pass) a second on one GPU."""

FORWARD_SHARE = 1 / 3
"""A backward pass costs about two forward passes."""

_EXTRA: dict[Cost, tuple[float, float]] = {
    Cost.PLAIN: (0, 0),
    Cost.LOOK_AHEAD: (4, 2),
    Cost.PER_TERM: (0, 2),
    Cost.REPLAY: (1, 0),
    Cost.LIVE_TEACHER: (0, 0),
}
"""Student forward and backward passes per sample and step beside the plain step's own, at most, by cost class."""


@dataclass(frozen=True)
class CellCost:
    """Passes in samples, for all trials of a cell."""

    steps: int
    student_forward: int
    student_backward: int

    @property
    def training_samples(self) -> float:
        """In units of one forward and one backward pass."""
        return self.student_forward * FORWARD_SHARE + self.student_backward * (1 - FORWARD_SHARE)


def planned_rows(task: TaskSpec, data: DataSpec) -> tuple[int, int] | None:
    """Training and report rows after caps; None for a task whose size is not known before it is read."""
    if data.source == "generated" and not task.files:
        train, report = data.generated.train_rows, data.generated.report_rows * (2 if task.name == "mnli" else 1)
    elif official := official_rows(task.name):
        train = official.pop("train")
        report = sum(min(rows, data.report_rows or rows) for rows in official.values())
        return min(train, data.train_rows or train), report
    else:
        return None
    return min(train, data.train_rows or train), min(report, data.report_rows or report)


def cell_cost(plan: Plan, cell: Cell) -> CellCost | None:
    """Estimate for one cell; None where the task's size is not known."""
    data = plan.study.data
    rows = planned_rows(cell.task, data)
    if rows is None:
        return None
    train, report = rows
    select = min(data.select_rows_at_most, round(train * data.select_fraction))
    meta = min(data.meta_rows_at_most, round(train * data.meta_fraction))
    trains_on_meta = plan.study.protocol.label_budget == "equal_labels" and not cell.needs.needs_meta_set
    fit = train - select - (0 if trains_on_meta else meta)
    trials = cell.trials + cell.final_repeats
    epochs = cell.training.epochs
    forward, backward = _EXTRA[cell.strategy.strategy.cost]
    return CellCost(
        steps=trials * epochs * -(-fit // cell.training.batch_size),
        student_forward=round(trials * (epochs * (fit * (1 + forward) + select) + report)),
        student_backward=round(trials * epochs * fit * (1 + backward)),
    )


def teacher_samples(plan: Plan) -> float | None:
    """Training samples (one forward and one backward pass) of all teachers, their cached outputs included."""
    total = 0.0
    for task in plan.tasks:
        rows = planned_rows(task, plan.study.data)
        if rows is None:
            return None
        train, report = rows
        for teacher in plan.study.models.teachers:
            total += train * teacher.training.epochs + (train + report) * FORWARD_SHARE
    return total


def describe(
    plan: Plan,
    student_per_second: float = STUDENT_SAMPLES_PER_SECOND,
    teacher_per_second: float = TEACHER_SAMPLES_PER_SECOND,
) -> str:
    """The plan and its cost as text."""
    from tabulate import tabulate

    study = plan.study
    lines = [f"{study.name}: {len(plan.cells)} cells (task x strategy x repeat), {plan.trials} trials", ""]
    per_task: dict[str, list[CellCost]] = defaultdict(list)
    unknown = []
    for cell in plan.cells:
        if (cost := cell_cost(plan, cell)) is None:
            unknown.append(cell.task.name)
        else:
            per_task[cell.task.name].append(cost)
    rows = [
        [
            task,
            (planned_rows(next(t for t in plan.tasks if t.name == task), study.data) or (0, 0))[0],
            sum(c.trials + c.final_repeats for c in plan.cells if c.task.name == task),
            sum(cost.steps for cost in costs),
            sum(cost.student_forward for cost in costs),
            sum(cost.student_backward for cost in costs),
            sum(cost.training_samples for cost in costs) / student_per_second / 3600,
        ]
        for task, costs in per_task.items()
    ]
    headers = ["task", "train rows", "trials", "steps", "student forward", "student backward", "GPU-hours"]
    lines.append(tabulate(rows, headers, floatfmt=".2f", intfmt=","))
    lines += ["", _strategies(plan), ""]
    student_hours = sum(row[-1] for row in rows)
    lines.append(f"students: {student_hours:.1f} GPU-hours at {student_per_second:g} training samples a second on one GPU")
    if (teachers := teacher_samples(plan)) is not None:
        hours = teachers / teacher_per_second / 3600
        lines.append(f"teachers: {hours:.1f} GPU-hours at {teacher_per_second:g} training samples a second on one GPU")
    lines.append(
        "Passes are counted in samples. The rates are assumptions until you measure yours: "
        "--student-samples-per-second, --teacher-samples-per-second."
    )
    lines += [f"not estimated, size unknown before reading: {name}" for name in sorted(set(unknown))]
    lines += [f"note: {warning}" for warning in plan.warnings]
    return "\n".join(lines)


def _strategies(plan: Plan) -> str:
    from tabulate import tabulate

    first: dict[str, Cell] = {}
    for cell in plan.cells:
        first.setdefault(cell.entry.shown, cell)
    rows = [
        [shown, cell.entry.name, cell.strategy.strategy.cost.value, cell.trials, ", ".join(cell.space) or "nothing"]
        for shown, cell in first.items()
    ]
    return tabulate(rows, ["row", "strategy", "cost", "trials a cell", "searched"])
