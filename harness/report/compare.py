"""`harness compare A B`: two strategies of one study, or the same strategies of two studies, in pairs and in words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import fill

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from harness.errors import UserError
from harness.report.admission import admitted
from harness.report.caption import count
from harness.report.cells import difference, p_value
from harness.report.predictions import TaskPredictions, load_predictions, same_students
from harness.report.references import find_strategy
from harness.report.sampled import Sampled, data_sets
from harness.report.selection import Selection, select
from harness.report.verdicts import BETTER, WORSE, Comparison, judge
from harness.stats import LEVEL
from harness.stats.bootstrap import draws_for
from harness.stats.multiple import holm
from harness.stats.paired import Seeds, mcnemar, sample_task
from harness.study.comparisons import BASELINE, ProtocolSpec
from harness.study.schema_errors import nearest


@dataclass(frozen=True)
class Side:
    """One of the two: a label of a result folder."""

    selection: Selection
    label: str

    @property
    def name(self) -> str:
        return f"{self.label} ({self.selection.path.name})"


@dataclass(frozen=True)
class Compared:
    """First minus second."""

    tasks: tuple[str, ...]
    rows: tuple[int, ...]
    sampled: Sampled
    """Of the two, in this order."""
    over_tasks: Comparison
    """By itself: nothing is corrected."""
    only: tuple[tuple[int, int], ...]
    """[tasks]: examples on which one alone is right, summed over repeats."""
    p_mcnemar: tuple[float, ...]
    """[tasks]; NaN with several repeats."""


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
    names = (a.label, b.label) if a.selection is b.selection else (a.name, b.name)
    found, left_out = compare_sides(a, b, task, draws)
    title = f"{names[0]} against {names[1]}"
    if found is None:
        return f"{title}\n{' '.join(left_out)}\nNothing can be compared."
    repeats = found.sampled.repeats
    points = 100 * found.sampled.scores.mean(-1)
    low, high, p, detectable, _ = found.sampled.on_tasks(0, 1, LEVEL)
    adjusted = holm(p)
    rows = [
        [
            name,
            f"{points[0, t]:.1f}",
            f"{points[1, t]:.1f}",
            difference((points[0, t] - points[1, t]) / 100, low[t], high[t]),
            p_value(float(adjusted[t])),
            *([f"{p_value(found.p_mcnemar[t])}"] if repeats == 1 else []),
            f"{100 * detectable[t]:.1f}",
            f"{repeats} x {found.rows[t]:,}",
        ]
        for t, name in enumerate(found.tasks)
    ]
    header = [
        "task",
        "first",
        "second",
        "difference [95 %]",
        "p (Holm)",
        *(["McNemar"] if repeats == 1 else []),
        "seen",
        "runs",
    ]
    one = found.over_tasks
    inside = int(found.sampled.in_mean.sum())
    over = f"over {count(inside, 'task')} (mean)" if len(found.tasks) > 1 else f"on {found.tasks[0]}"
    word = one.words + (f" than {names[1]}" if one.verdict in (BETTER, WORSE) else "")
    size = f"{difference(one.value, one.low, one.high)} points, p {p_value(one.p)}"
    drawn = "bootstrap over examples, t over repeats" if repeats > 1 else "bootstrap over examples"
    said = [
        f"Verdict: {names[0]} {over}: {word}. {size}, by this comparison alone.",
        f"The smallest difference that could have been seen is {100 * one.detectable:.1f} points (80 % power, level 5 %)."
        if np.isfinite(one.detectable_corrected)
        else f"No difference could have been seen: sign-flips of so few runs allow no p below {LEVEL:g}.",
        f"p: {drawn}, {found.sampled.draws:,} draws; at least that of sign-flips of {_units(found)}.",
        "Seen: the smallest on that task.",
    ]
    if found.sampled.one_student(0, 1):
        said.append("Both said the same probabilities of every example in every repeat: one student, trained twice.")
    elif not any(map(any, found.only)):
        said.append("Both are right on exactly the same examples, in every repeat.")
    if repeats == 1:
        said.append("One run each: what training itself varies is not in the intervals.")
    table = tabulate(rows, header, tablefmt="simple", disable_numparse=True)
    return "\n".join([title, "", table, "", *(fill(sentence, 80, break_on_hyphens=False) for sentence in (*said, *left_out))])


def compare_sides(a: Side, b: Side, task: str | None = None, draws: int | None = None) -> tuple[Compared | None, list[str]]:
    """What can be compared in pairs, None where nothing can, and why the rest cannot."""
    tasks = [name for name in a.selection.tasks if name in b.selection.tasks]
    if task is not None:
        if task not in tasks:
            raise UserError(f"{task!r} is not a task of both: {', '.join(tasks) or 'none'}.{nearest(task, tasks)}")
        tasks = [task]
    pairs, left_out = {}, []
    for name in tasks:
        pair = _pair(a, b, name)
        if isinstance(pair, str):
            left_out.append(f"{name} is left out: {pair}.")
        else:
            pairs[name] = pair
    shared = frozenset.intersection(*(pair.repeats for pair in pairs.values())) if pairs else frozenset()
    repeats = np.array(sorted(shared), np.int64)
    if not len(repeats):
        return None, left_out or ["No repeat has all tasks."]
    number = draws or draws_for(len(a.selection.tasks))
    both = {name: pair.predicted[:, repeats] for name, pair in pairs.items()}
    present = np.ones((2, len(repeats)), np.bool_)
    samples = tuple(
        replace(
            sample_task(pair.metric, pair.labels, both[name], present, pair.classes, number, pair.seeds),
            students=pair.students[:, repeats],
        )
        for name, pair in pairs.items()
    )
    scores = np.stack([sample.scores for sample in samples], axis=1)
    sets = data_sets(a.selection)[[a.selection.tasks.index(name) for name in pairs]]
    inside = np.ones(len(pairs), bool)
    if len(pairs) > 1:
        admission = admitted(a.selection, find_strategy(a.selection, BASELINE))
        known = np.array([admission.in_mean[a.selection.tasks.index(name)] for name in pairs])
        inside = known if known.any() else inside
        left_out += [admission.said] * bool(admission.said)
    sampled = Sampled(samples, scores, tuple(pairs), sets, inside, number)
    tests = [[mcnemar(*(both[name][:, r] == pair.labels)) for r in range(len(repeats))] for name, pair in pairs.items()]
    margin = float(a.selection.manifest.get("study", {}).get("protocol", {}).get("margin", ProtocolSpec().margin))
    return Compared(
        tasks=tuple(pairs),
        rows=tuple(len(pair.labels) for pair in pairs.values()),
        sampled=sampled,
        over_tasks=judge(sampled, [(0, 1)], margin / 100)[0],
        only=tuple((sum(test.a_only for test in own), sum(test.b_only for test in own)) for own in tests),
        p_mcnemar=tuple(own[0].p if len(own) == 1 else float("nan") for own in tests),
    ), left_out


@dataclass(frozen=True)
class _Pair:
    labels: NDArray[np.int64]  # [rows]
    predicted: NDArray[np.int64]  # [2, repeats, rows]
    repeats: frozenset[int]
    """That both have."""
    metric: str
    classes: int
    seeds: Seeds
    students: NDArray[np.int64]
    """[2, repeats] of `same_students`."""


def _pair(a: Side, b: Side, task: str) -> _Pair | str:
    left, right = (load_predictions(side.selection, task, (side.label,), probabilities=True) for side in (a, b))
    if left is None or right is None:
        return "no predictions"
    rows = _shared_rows(left, right)
    if rows is None:
        return "the two were scored on different examples"
    runs = min(left.predicted.shape[1], right.predicted.shape[1])
    both = np.flatnonzero(left.present[0, :runs] & right.present[0, :runs])
    if not len(both):
        return "no repeat that both have"
    predicted = np.stack([side.predicted[0, :runs, own].T for side, own in zip((left, right), rows, strict=True)])
    said = np.stack(
        [
            side.probabilities[0, :runs][:, own]
            for side, own in zip((left, right), rows, strict=True)
            if side.probabilities is not None
        ]
    )
    known = frozenset(both.tolist())
    return _Pair(left.labels[rows[0]], predicted, known, left.metric, left.classes, left.seeds, same_students(said))


def _units(found: Compared) -> str:
    sets = found.sampled.sets
    return f"{sets} x {found.sampled.repeats} runs" if sets > 1 else f"{found.sampled.repeats} runs"


def _shared_rows(left: TaskPredictions, right: TaskPredictions) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Positions of the shared examples in both; None where there are none or where their labels differ."""
    _, in_left, in_right = np.intersect1d(left.ids, right.ids, return_indices=True)
    same = len(in_left) > 0 and np.array_equal(left.labels[in_left], right.labels[in_right])
    same = same and (left.metric, left.classes) == (right.metric, right.classes)
    return (in_left.astype(np.int64), in_right.astype(np.int64)) if same else None


def _label(selection: Selection, name: str) -> str:
    if name in selection.labels:
        return name
    near = nearest(name, selection.labels)
    raise UserError(f"{name!r} is not a strategy of {selection.path}: {', '.join(selection.labels)}.{near}")
