"""`harness compare A B`: two strategies of one study, or the same strategies of two studies, in pairs and in words."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from harness.errors import UserError
from harness.report.predictions import TaskPredictions, load_predictions
from harness.report.selection import Selection, select
from harness.stats.bootstrap import draws_for, interval, two_sided_p
from harness.stats.metrics import Array
from harness.stats.multiple import holm
from harness.stats.paired import PairedResult, compare_pair, point_scores
from harness.stats.power import minimum_detectable_effect


@dataclass(frozen=True)
class Side:
    """One of the two: a label of a result folder."""

    selection: Selection
    label: str

    @property
    def name(self) -> str:
        return f"{self.label} ({self.selection.path.name})"


@dataclass(frozen=True)
class TaskComparison:
    task: str
    score_a: float
    score_b: float
    runs: int
    rows: int
    result: PairedResult
    differences: Array
    """[draws]"""


def compare(first: str, second: str, *, results: str | None = None, task: str | None = None, draws: int | None = None) -> str:
    """The comparison as text, first minus second.

    `first` and `second` are labels of the folder `results`, or two result folders: then every label that both have is compared.
    Raises UserError for labels, folders and tasks that are not there.
    """
    if results is not None:
        selection = select(Path(results))
        return compare_labels(
            Side(selection, _label(selection, first)), Side(selection, _label(selection, second)), task, draws
        )
    folders = [Path(first), Path(second)]
    absent = [str(folder) for folder in folders if not folder.is_dir()]
    if absent:
        raise UserError(
            f"{' and '.join(absent)}: no such result folder. To compare two strategies of one folder, say which: "
            f"compare {first} {second} --results results/NAME"
        )
    selections = [select(folder) for folder in folders]
    shared = [label for label in selections[0].labels if label in selections[1].labels]
    if not shared:
        raise UserError(
            f"{first} and {second} have no strategy in common: {', '.join(selections[0].labels)}; and "
            f"{', '.join(selections[1].labels)}"
        )
    return "\n\n".join(compare_labels(Side(selections[0], label), Side(selections[1], label), task, draws) for label in shared)


def compare_labels(a: Side, b: Side, task: str | None = None, draws: int | None = None) -> str:
    """Table by task, then the verdict in words."""
    same = a.selection is b.selection
    names = (a.label, b.label) if same else (a.name, b.name)
    draws = draws or draws_for(len(a.selection.tasks))
    found, left_out = compare_tasks(a, b, task, draws)
    title = f"{names[0]} against {names[1]}"
    if not found:
        return f"{title}\n{' '.join(left_out)}\nNothing can be compared."
    if all(one.result.mcnemar.a_only + one.result.mcnemar.b_only == 0 and one.result.difference == 0 for one in found):
        where = ", ".join(one.task for one in found)
        return "\n".join(
            [title, f"Verdict: both are right on exactly the same examples of {where}, in every repeat.", *left_out]
        )
    adjusted = holm(np.array([one.result.p for one in found]))
    rows = [_table_row(one, float(p)) for one, p in zip(found, adjusted, strict=True)]
    header = ["task", *names, "difference [95 %]", "p", "p (Holm)", "McNemar", "detectable", "runs x rows"]
    lines = [title, "", tabulate(rows, header, tablefmt="simple", disable_numparse=True), ""]
    if len(found) > 1:
        lines.append(
            "By task: "
            + "; ".join(_phrase(one.task, one.result.difference, float(p)) for one, p in zip(found, adjusted, strict=True))
            + "."
        )
        lines.append(_verdict_over_tasks(names, found))
    else:
        one = found[0]
        lines.append(
            _verdict(
                names,
                f"on {one.task}",
                one.result.difference,
                one.result.low,
                one.result.high,
                one.result.p,
                one.result.detectable,
            )
        )
    runs = max(one.runs for one in found)
    lines.append(
        f"Paired: bootstrap over examples{', t over repeats' if runs > 1 else ''}, {draws:,} draws; points; first minus second."
        + (" One run each: what training itself varies is not in the intervals." if runs == 1 else "")
    )
    return "\n".join([*lines, *left_out])


def compare_tasks(a: Side, b: Side, task: str | None, draws: int) -> tuple[list[TaskComparison], list[str]]:
    """What can be compared in pairs, and why the rest cannot."""
    tasks = [name for name in a.selection.tasks if name in b.selection.tasks]
    if task is not None:
        if task not in tasks:
            near = difflib.get_close_matches(task, tasks, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UserError(f"{task!r} is not a task of both: {', '.join(tasks) or 'none'}.{hint}")
        tasks = [task]
    found, left_out = [], []
    for name in tasks:
        one = _compare_task(a, b, name, draws, len(tasks))
        if isinstance(one, str):
            left_out.append(f"{name} is left out: {one}.")
        else:
            found.append(one)
    return found, left_out


def _compare_task(a: Side, b: Side, task: str, draws: int, tasks: int) -> TaskComparison | str:
    left, right = (load_predictions(side.selection, task, (side.label,)) for side in (a, b))
    if left is None or right is None:
        return "no predictions"
    rows = _shared_rows(left, right)
    if rows is None:
        return "the two were scored on different examples"
    runs = min(left.predicted.shape[1], right.predicted.shape[1])
    both = np.flatnonzero(left.present[0, :runs] & right.present[0, :runs])
    if not len(both):
        return "no repeat that both have"
    predicted_a, predicted_b = left.predicted[0][both][:, rows[0]], right.predicted[0][both][:, rows[1]]
    labels = left.labels[rows[0]]
    result, differences = compare_pair(left.metric, labels, predicted_a, predicted_b, left.classes, draws, left.seeds, tasks)
    scores = [float(point_scores(left.metric, labels, p, left.classes).mean()) for p in (predicted_a, predicted_b)]
    return TaskComparison(task, scores[0], scores[1], len(both), len(labels), result, differences)


def _shared_rows(left: TaskPredictions, right: TaskPredictions) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Positions of the shared examples in both; None where there are none or where their labels differ."""
    _, in_left, in_right = np.intersect1d(left.ids, right.ids, return_indices=True)
    same = len(in_left) > 0 and np.array_equal(left.labels[in_left], right.labels[in_right])
    return (in_left.astype(np.int64), in_right.astype(np.int64)) if same and left.metric == right.metric else None


def _label(selection: Selection, name: str) -> str:
    if name in selection.labels:
        return name
    near = difflib.get_close_matches(name, selection.labels, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UserError(f"{name!r} is not a strategy of {selection.path}: {', '.join(selection.labels)}.{hint}")


def _table_row(one: TaskComparison, adjusted: float) -> list[str]:
    result = one.result
    return [
        one.task,
        f"{100 * one.score_a:.1f}",
        f"{100 * one.score_b:.1f}",
        f"{100 * result.difference:+.1f} [{100 * result.low:+.1f}, {100 * result.high:+.1f}]",
        _p(result.p),
        _p(adjusted),
        f"{result.mcnemar.a_only}:{result.mcnemar.b_only}, p {_p(result.mcnemar.p)}",
        f"{100 * result.detectable:.1f}",
        f"{one.runs} x {one.rows:,}",
    ]


def _verdict_over_tasks(names: tuple[str, str], found: list[TaskComparison]) -> str:
    differences = np.mean([one.differences for one in found], axis=0)
    low, high = interval(differences)
    mean = float(np.mean([one.result.difference for one in found]))
    detectable = float(minimum_detectable_effect(differences))
    where = f"over these {len(found)} tasks (mean)"
    return _verdict(names, where, mean, float(low), float(high), float(two_sided_p(differences)), detectable)


def _verdict(
    names: tuple[str, str], where: str, difference: float, low: float, high: float, p: float, detectable: float
) -> str:
    size = f"{100 * difference:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}], p {_p(p)}"
    smallest = f"The smallest difference that could have been seen is {100 * detectable:.1f} points (80 % power at 5 %)."
    if p < 0.05:
        word = "better" if difference > 0 else "worse"
        return f"Verdict: {names[0]} is {word} than {names[1]} {where}: {size}. {smallest}"
    return f"Verdict: no evidence that {names[0]} and {names[1]} differ {where}: {size}. {smallest}"


def _phrase(task: str, difference: float, p: float) -> str:
    return f"{task} {('better' if difference > 0 else 'worse') if p < 0.05 else 'no evidence'}"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
