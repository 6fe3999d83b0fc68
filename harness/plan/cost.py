"""What a study will cost, estimated from row counts. Passes are counted in samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.data.output_names import NUMBER_OF_PARTS, teacher_passes_per_row
from harness.errors import DataError
from harness.loss_terms import needs_of_terms
from harness.loss_terms.registry import look_ahead_engine
from harness.plan.plan import Cell, Plan
from harness.study.data import DataSpec
from harness.study.schema import TeacherSpec, TrainingSpec
from harness.study.tasks import GLUE, TaskSpec, official_rows
from strategies.base import Cost, Needs

STUDENT_SAMPLES_PER_SECOND = 1500.0
TEACHER_SAMPLES_PER_SECOND = 500.0
"""Assumed where the user gives no figures: training samples (one forward and one backward pass) a second on one GPU."""

FORWARD_SHARE = 1 / 3
"""Of a training sample's time: a backward pass costs about two forward passes."""


@dataclass(frozen=True)
class RowCounts:
    """Rows of a task after caps, by role."""

    fit: int
    meta: int
    select: int
    report: int
    """Of all report splits together."""
    headline: int
    """Of the report split that scores in tables are of."""
    teacher: int = 0
    """That the teachers have for themselves."""

    @property
    def train(self) -> int:
        return self.fit + self.meta + self.select


@dataclass(frozen=True)
class Passes:
    """Samples that went through a model; two of them add up."""

    forward: int = 0
    backward: int = 0

    def __add__(self, other: Passes) -> Passes:
        return Passes(self.forward + other.forward, self.backward + other.backward)

    def hours(self, training_samples_per_second: float) -> float:
        """Of one GPU that trains on so many samples a second."""
        samples = self.forward * FORWARD_SHARE + self.backward * (1 - FORWARD_SHARE)
        return samples / training_samples_per_second / 3600


@dataclass(frozen=True)
class CellCost:
    """Of all trials of a cell."""

    trials: int
    steps: int
    student: Passes
    live_teacher: Passes
    """Teacher passes in the training step, beside the cached outputs."""


def read_sizes(plan: Plan) -> tuple[dict[str, dict[str, int]], dict[str, str]]:
    """Task -> rows of each split, of the tasks that are not GLUE's, which are read for it; and of those of the hub that cannot
    be read now, the reason. Raises DataError for the study's own files.
    """
    sizes, unknown = {}, {}
    for task in plan.tasks:
        if task.source_name in GLUE and not task.files:
            continue
        from harness.data.source import load_task  # not before it is needed: most plans start at once

        try:
            data = load_task(task, plan.study.data_for(task.name), plan.base)
        except DataError as error:
            if task.files:
                raise
            unknown[task.name] = str(error)
        else:
            sizes[task.name] = {"train": len(data.train), **{split: len(rows) for split, rows in data.report.items()}}
    return sizes, unknown


def planned_rows(task: TaskSpec, data: DataSpec, read: Mapping[str, int] | None = None) -> RowCounts | None:
    """None for a task whose size is not known. GLUE counts as GLUE's own splits, another task as it was `read`; capped as in
    the study.
    """
    own = task.files or task.source_name not in GLUE
    if own and not read:
        return None
    sizes = dict(read or {}) if own else official_rows(task.source_name)
    train = sizes.pop("train")
    report = list(sizes.values())
    if data.source == "generated" and not own:
        train, report = data.generated.train_rows, [data.generated.report_rows] * len(report)
    left_out = train - min(train, data.train_rows or train)
    train -= left_out
    select = min(data.select_rows_at_most, round(train * data.select_fraction))
    meta = min(data.meta_rows_at_most, round(train * data.meta_fraction))
    capped = [min(rows, data.report_rows or rows) for rows in report]
    taught = min(data.teacher_rows, left_out)
    surplus = min(data.report_from_train, left_out - taught)
    headline = surplus or next(iter(capped), 0)  # sources name validation first
    return RowCounts(train - select - meta, meta, select, sum(capped) + surplus, headline, taught)


def cell_cost(plan: Plan, cell: Cell, read: Mapping[str, int] | None = None) -> CellCost | None:
    """Estimate for one cell as its default trial runs; None where the task's size is not known."""
    rows = planned_rows(cell.task, plan.study.data_for(cell.task.name), read)
    if rows is None:
        return None
    fit = rows.fit + (rows.meta if cell.needs.trains_on_meta(plan.study.protocol.label_budget) else 0)
    trials = cell.trials + cell.final_repeats
    visits = trials * cell.training.epochs
    forward, backward = extra_passes(cell)
    live = cell.strategy.strategy.cost is Cost.LIVE_TEACHER
    return CellCost(
        trials=trials,
        steps=visits * -(-fit // cell.training.batch_size),
        student=Passes(
            forward=round(visits * (fit * (1 + forward) + rows.select) + trials * rows.report),
            backward=round(visits * fit * (1 + backward)),
        ),
        live_teacher=Passes(forward=visits * fit * len(cell.teachers) if live else 0),
    )


def planned_engine(cell: Cell) -> str:
    """The look-ahead's engine in trial 0; empty without a look-ahead. A GPU's precision `auto` is taken for bf16, which all but
    old ones have.
    """
    if cell.needs.look_ahead is None:
        return ""
    device = "gpu" if cell.resources.gpus_per_worker else "cpu"
    automatic = "bf16" if device == "gpu" else "fp32"
    precision = automatic if cell.training.precision == "auto" else cell.training.precision
    return look_ahead_engine(needs_of_terms(cell.needs), cell.needs.look_ahead, cell.resources.workers, precision, device)


def extra_passes(cell: Cell) -> tuple[float, float]:
    """`passes_beside_the_step` of a cell's strategy as its default trial runs."""
    return passes_beside_the_step(cell.strategy.strategy.cost, cell.needs, cell.training)


def passes_beside_the_step(declared: Cost, needs: Needs, training: TrainingSpec) -> tuple[float, float]:
    """Student forward and backward passes per training sample beside the plain step's own, at most, by declared cost class."""
    takes_parts = declared is Cost.PARTS or needs_of_terms(needs).parts
    parts = NUMBER_OF_PARTS * takes_parts  # every pass over the batch takes them along
    match declared:
        case Cost.LOOK_AHEAD:
            # gradient of the weighed loss, gradient of the meta loss on its own batch, then a forward pass along it, the other
            # end of whose difference is the step's own pass; where that is, or may be, in half precision: forward mode, for two
            meta = training.meta_batch_size / training.batch_size
            forward = 2 if training.precision == "fp32" else 3
            return forward * (1 + parts) + meta + parts, 1 + parts + meta + parts
        case Cost.PER_TERM:
            return parts, len(needs.terms) * (1 + parts) + parts
        case Cost.REPLAY:
            return 1 + parts, parts
        case Cost.PLAIN | Cost.PARTS | Cost.LIVE_TEACHER:
            return parts, parts


def teacher_passes(teacher: TeacherSpec, rows: RowCounts, outputs: Iterable[str] = ()) -> Passes:
    """Fine-tuning on `fit` and the teachers' own rows, selection after each epoch, then one pass over all of the student's rows
    for the cache, and those for `outputs`. What was trained elsewhere is not trained, and what was computed is not computed.
    """
    if teacher.outputs is not None:
        return Passes()
    epochs, fit = 0 if teacher.trained_elsewhere else teacher.training.epochs, rows.fit + rows.teacher
    cached = (1 + sum(map(teacher_passes_per_row, outputs))) * rows.train
    return Passes(forward=epochs * (fit + rows.select) + cached + rows.report, backward=epochs * fit)
