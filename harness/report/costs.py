"""What the rows of the leaderboard cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from harness.records import TrialRecord
from harness.report.selection import Selection
from harness.stats.aggregate import score_within
from harness.stats.metrics import Array


@dataclass(frozen=True)
class Costs:
    """Of the chosen trials, per strategy [labels]; NaN where there is none. Failed trials do not enter."""

    seconds: Array
    """Optimisation of one trial, mean over tasks and repeats."""
    relative_seconds: Array
    """To plain KD: geometric mean over tasks of the ratio of mean seconds."""
    passes: Array
    """Samples passed forward or backward through the student, or forward through a teacher, per trial."""
    relative_passes: Array
    memory: Array
    """Largest peak, bytes."""
    search_seconds: Array
    """All trials together, with evaluation and set-up."""
    devices: tuple[str, ...]


def passes(record: TrialRecord) -> int:
    """Samples passed through a model in training."""
    cost = record.cost
    return cost.student_forward + cost.student_backward + cost.teacher_forward


def costs_of(selection: Selection, baseline: int | None) -> Costs:
    shape = (len(selection.labels), len(selection.tasks))
    seconds, done = np.full(shape, np.nan), np.full(shape, np.nan)
    memory = np.full(len(selection.labels), np.nan)
    for s, label in enumerate(selection.labels):
        for t, task in enumerate(selection.tasks):
            chosen = [row.record for row in selection.of(label, task) if row.record and row.record.status == "ok"]
            if chosen:
                seconds[s, t] = np.mean([record.cost.train_seconds for record in chosen])
                done[s, t] = np.mean([passes(record) for record in chosen])
                memory[s] = np.fmax(memory[s], max(record.cost.peak_memory_bytes for record in chosen))
    total: dict[str, float] = defaultdict(float)
    for record in selection.records:
        total[record.spec.label] += record.cost.total_seconds
    return Costs(
        seconds=_row_means(seconds),
        relative_seconds=_relative(seconds, baseline),
        passes=_row_means(done),
        relative_passes=_relative(done, baseline),
        memory=memory,
        search_seconds=np.array([total[label] for label in selection.labels]),
        devices=tuple(sorted({record.cost.device for record in selection.records if record.cost.device})),
    )


def equal_compute_scores(selection: Selection, tasks: Collection[str]) -> Array | None:
    """Mean score [labels] over `tasks` if every search had stopped at the compute of the cheapest one of its (task, repeat).

    The same trials, in their order. Compute is passes, not seconds: which search is the cheapest, and how many trials fit, does
    not depend on what else a machine does. NaN where a cell is missing or not one trial fits. None where cells have one trial.
    """
    searches: dict[tuple[str, int], dict[str, list[TrialRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in selection.records:
        if record.spec.purpose == "search" and record.spec.task.name in tasks:
            searches[record.spec.task.name, record.spec.repeat][record.spec.label].append(record)
    longest = max((len(trials) for cell in searches.values() for trials in cell.values()), default=0)
    if longest < 2 or not selection.complete:
        return None
    found: dict[str, list[float]] = defaultdict(list)
    for cells in searches.values():
        ordered = {label: sorted(trials, key=lambda r: r.spec.index) for label, trials in cells.items()}
        spent = {label: sum(passes(r) for r in trials) for label, trials in ordered.items()}
        # a strategy with nothing to vary has one trial; that is no search to stop the others by
        searched = [
            label for label, trials in ordered.items() if len(trials) == longest and all(r.status != "failed" for r in trials)
        ]
        budget = min((spent[label] for label in searched), default=np.inf)
        for label, trials in ordered.items():
            found[label].append(_within(trials, budget))
    return np.array([float(np.mean(found[label])) if found[label] else np.nan for label in selection.labels])


def _within(trials: list[TrialRecord], budget: float) -> float:
    metric, split = trials[0].spec.task.headline_metric, trials[0].spec.data.headline_split
    good = [r.status == "ok" and split in r.report for r in trials]
    score = score_within(
        np.array([passes(r) for r in trials]),
        np.array([r.objective if ok and r.objective is not None else np.nan for r, ok in zip(trials, good, strict=True)]),
        np.array([r.report[split].metrics[metric] if ok else np.nan for r, ok in zip(trials, good, strict=True)]),
        budget,
    )
    if np.isnan(score) and not any(good) and trials[0].majority:
        return trials[0].majority[split].metrics[metric]
    return score


def _relative(values: Array, baseline: int | None) -> Array:
    """Geometric mean over tasks of the ratio to the baseline; NaN where a task is missing.

    To 12 digits after the point: processors differ in the last bits of numpy's exponential and logarithm.
    """
    if baseline is None:
        return np.full(len(values), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.round(np.exp(np.log(values / values[baseline]).mean(1)), 12))


def _row_means(values: Array) -> Array:
    count = np.isfinite(values).sum(1)
    return np.where(count > 0, np.nansum(values, 1) / np.maximum(count, 1), np.nan)
