"""Which trial stands for which cell, and which cells are missing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from harness.errors import StoreError
from harness.records import Score, TrialRecord
from harness.store.files import Damage
from harness.store.run_state import RunState, last_working_run
from harness.store.store import Store
from harness.study.data import VALIDATION
from harness.study.tasks import TaskSpec

State = Literal["ok", "failed", "incomplete", "missing"]


@dataclass(frozen=True)
class Row:
    """The result of one (task, label, repeat)."""

    task: str
    label: str
    repeat: int
    state: State
    """failed: no trial succeeded, the majority predictor's score stands in. incomplete: the search is not finished."""
    score: float
    """Headline metric on the split that the study reports on; NaN where the cell is missing."""
    record: TrialRecord | None
    """The chosen trial."""
    done: int
    planned: int
    failed: int
    """Trials that were run, planned, and failed."""


@dataclass(frozen=True)
class Selection:
    """The rows of a study's leaderboard, in the study's order."""

    path: Path
    manifest: dict[str, Any]
    tasks: tuple[str, ...]
    labels: tuple[str, ...]
    strategies: dict[str, str]
    """Label -> registered name."""
    repeats: int
    winner: bool
    """One search, then its best configuration with several seeds."""
    rows: dict[tuple[str, str, int], Row]
    records: list[TrialRecord]
    """All trials of this run, also those that were not chosen."""
    damage: list[Damage]
    warnings: list[str] = field(default_factory=list)

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """[labels, tasks, repeats]; NaN where a cell is missing or its search not finished."""
        return self._array(lambda row: row.score if row.state in ("ok", "failed") else np.nan)

    @cached_property
    def shown_scores(self) -> NDArray[np.float64]:
        """As `scores`, with the best so far of unfinished searches."""
        return self._array(lambda row: row.score)

    def _array(self, value: Any) -> NDArray[np.float64]:
        return np.array(
            [[[value(self.rows[t, s, r]) for r in range(self.repeats)] for t in self.tasks] for s in self.labels], dtype=float
        ).reshape(len(self.labels), len(self.tasks), self.repeats)

    @cached_property
    def work(self) -> RunState | None:
        """What the event log says of the last run that trained anything; None where there is no log."""
        return last_working_run(Store(self.path).events())

    def of(self, label: str, task: str | None = None) -> list[Row]:
        """Rows of a label, over repeats."""
        return [row for row in self.rows.values() if row.label == label and task in (None, row.task)]

    @cached_property
    def complete(self) -> bool:
        return all(row.state in ("ok", "failed") for row in self.rows.values())

    def further_splits(self, task: str) -> list[str]:
        """What else it was scored on: MNLI's mismatched genres; official validation where scores are of `train_surplus`."""
        found = {split for record in self.records if record.spec.task.name == task for split in record.report}
        return sorted(found - {self.headline_split(task)})

    def headline_split(self, task: str) -> str:
        """The report split that the task's scores are of."""
        return next((record.spec.data.headline_split for record in self.records if record.spec.task.name == task), VALIDATION)

    @cached_property
    def data_sets(self) -> tuple[int, ...]:
        """[tasks]: the place of the first task of the same data set: of the same source, or with the same report rows."""
        digests, found = self.manifest.get("digests", {}), list(range(len(self.tasks)))
        marks = [
            {self.task_spec(task).source_name, digests.get(task, {}).get(self.headline_split(task))} - {None}
            for task in self.tasks
        ]
        for t, mark in enumerate(marks):
            alike = {found[other] for other in range(t) if marks[other] & mark}
            found = [min(alike) if place in {t, *alike} and alike else place for place in found]
        return tuple(found)

    def label_noise(self, task: str) -> float:
        """Share of the task's training labels that were flipped on purpose."""
        study = self.manifest.get("study", {})
        own = {**study.get("data", {}), **(study.get("data_per_task") or {}).get(task, {})}
        generated = (own.get("generated") or {}) if own.get("source") == "generated" else {}
        return float(own.get("label_noise") or 0) or float(generated.get("flipped") or 0)

    def task_spec(self, task: str) -> TaskSpec:
        for record in self.records:
            if record.spec.task.name == task:
                return record.spec.task
        from harness.study.tasks import TaskSpec, resolve_task

        entries = self.manifest.get("study", {}).get("tasks", [])
        own = next((entry for entry in entries if isinstance(entry, dict) and entry["name"] == task), task)
        return resolve_task(TaskSpec.model_validate(own) if isinstance(own, dict) else own)


def select(path: Path | str) -> Selection:
    """The rows of the store at `path`. Raises StoreError where it holds no readable trial."""
    store = Store(path)
    manifest = store.manifest()
    everything = store.records()
    damage = sorted(store.damaged.values(), key=lambda d: d.path)
    if not everything:
        found = f"{len(damage)} damaged ones, first: {damage[0]}" if damage else "none"
        raise StoreError(f"{store.path} holds no finished trial to report on ({found}). Run the study first.")
    warnings: list[str] = []
    records = _current(everything, manifest, warnings)
    records = _one_data_set(records, warnings)
    _warn_of_teachers_trained_twice(records, warnings)
    cells = manifest.get("planned_cells") or _inferred_cells(records)
    tasks = tuple(dict.fromkeys(cell["task"] for cell in cells))
    labels = tuple(dict.fromkeys(cell["label"] for cell in cells))
    winner = any(cell.get("final_repeats") for cell in cells)
    repeats = max(cell.get("final_repeats") or cell["repeat"] + 1 for cell in cells)
    by_cell: dict[tuple[str, str, int], list[TrialRecord]] = defaultdict(list)
    for record in records:
        by_cell[record.spec.task.name, record.spec.label, record.spec.repeat].append(record)
    majority = _majority(records)
    planned = {(cell["task"], cell["label"], cell["repeat"]): int(cell["trials"]) for cell in cells}
    rows = {}
    for task in tasks:
        for label in labels:
            for repeat in range(repeats):
                place = (task, label, repeat)
                trials = planned.get((task, label, 0) if winner else place, 0)
                found_here = by_cell.get(place, [])
                rows[place] = _row(place, found_here, trials, winner, majority.get(task, {}))
    return Selection(
        path=store.path,
        manifest=manifest,
        tasks=tasks,
        labels=labels,
        strategies={cell["label"]: cell["strategy"] for cell in cells},
        repeats=repeats,
        winner=winner,
        rows=rows,
        records=records,
        damage=damage,
        warnings=warnings,
    )


def _row(
    place: tuple[str, str, int], records: list[TrialRecord], planned: int, winner: bool, majority: Mapping[str, Score]
) -> Row:
    finals = [r for r in records if r.spec.purpose == "final"]
    candidates = finals if winner else [r for r in records if r.spec.purpose == "search"]
    good = [r for r in candidates if r.status == "ok" and r.objective is not None and r.spec.data.headline_split in r.report]
    counts = {
        "done": len(records),
        "planned": planned + (1 if winner else 0),
        "failed": sum(r.status == "failed" for r in records),
    }
    task, label, repeat = place
    if not candidates:
        return Row(task, label, repeat, "missing", float("nan"), None, **counts)
    expected = 1 if winner else planned
    state: State = "incomplete" if len(candidates) < expected else "ok"
    if good:
        # the earliest of equals: later trials must not win by being many
        best = min(good, key=lambda r: (-(r.objective or 0.0), r.spec.index))
        score = best.report[best.spec.data.headline_split].metrics[best.spec.task.headline_metric]
        return Row(task, label, repeat, state, score, best, **counts)
    failed = min(candidates, key=lambda r: (r.status != "failed", r.spec.index))
    split = failed.spec.data.headline_split
    scores = failed.majority.get(split) or majority.get(split)
    score = scores.metrics[failed.spec.task.headline_metric] if scores else float("nan")
    known = state == "ok" and scores is not None
    return Row(task, label, repeat, "failed" if known else "missing", score, failed, **counts)


def _current(records: list[TrialRecord], manifest: Mapping[str, Any], warnings: list[str]) -> list[TrialRecord]:
    """The records of this run: those that the manifest names, else the latest of each place."""
    named = manifest.get("trials")
    if named is not None:
        kept = [record for record in records if record.key in set(named)]
    else:
        latest: dict[tuple[Any, ...], TrialRecord] = {}
        for record in sorted(records, key=lambda r: (r.finished_at, r.key)):
            spec = record.spec
            final = spec.purpose == "final"
            latest[spec.task.name, spec.label, spec.repeat, final, None if final else spec.index] = record
        chosen = {record.key for record in latest.values()}
        kept = [record for record in records if record.key in chosen]
    if len(kept) < len(records):
        warnings.append(
            f"{len(records) - len(kept)} stored trials belong to another form of this study (other repeats, settings, code or "
            "data) and are left out."
        )
    if not kept:
        raise StoreError(
            "the manifest names trials, and none of them is in the store: was it copied without `trials/` or `pack/`?"
        )
    return kept


def _one_data_set(records: list[TrialRecord], warnings: list[str]) -> list[TrialRecord]:
    """Scores on different rows cannot be compared: per task, keep the rows that most trials were made on."""
    digests: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        digests[record.spec.task.name][record.spec.data_digest] += 1
    kept = {task: sorted(counts.items(), key=lambda item: (-item[1], item[0]))[0][0] for task, counts in digests.items()}
    for task, counts in digests.items():
        if len(counts) > 1:
            warnings.append(
                f"the trials of {task} were made on {len(counts)} different sets of rows; the {counts[kept[task]]} on digest "
                f"{kept[task]} are shown, the other {sum(counts.values()) - counts[kept[task]]} count as missing."
            )
    return [record for record in records if record.spec.data_digest == kept[record.spec.task.name]]


def _warn_of_teachers_trained_twice(records: Iterable[TrialRecord], warnings: list[str]) -> None:
    """A teacher's digest says how it is made. Made again on another kind of processor, it comes out slightly different.

    Contents tell them apart; of records that lack them, scores do.
    """
    scores: dict[tuple[str, str], set[float]] = defaultdict(set)
    contents: dict[tuple[str, str], set[str]] = defaultdict(set)
    for record in records:
        # a trial that failed has no teachers' scores
        for digest, report in zip(record.spec.teacher_digests, record.teacher_report, strict=False):
            if (split := record.spec.data.headline_split) in report:
                scores[record.spec.task.name, digest].add(report[split].metrics[record.spec.task.headline_metric])
        for digest, content in zip(record.spec.teacher_digests, record.teacher_contents, strict=False):
            contents[record.spec.task.name, digest].add(content)
    for (task, digest), found in scores.items():
        if len(found) > 1 or len(contents[task, digest]) > 1:
            warnings.append(
                f"the trials of {task} had different teachers of one recipe ({digest}, with scores of "
                f"{', '.join(f'{score:.2%}' for score in sorted(found))}): it was fine-tuned more than once, on machines that "
                f"compute differently. Differences between strategies of this task are in part differences between teachers; "
                f"run the task's trials again with one cache (HARNESS_CACHE)."
            )


def _inferred_cells(records: Iterable[TrialRecord]) -> list[dict[str, Any]]:
    """Without a manifest: every task x label x repeat that occurs, with the largest number of trials that occurs."""
    records = list(records)
    searched = Counter((r.spec.task.name, r.spec.label, r.spec.repeat) for r in records if r.spec.purpose == "search")
    finals = {r.spec.repeat for r in records if r.spec.purpose == "final"}
    trials = max(searched.values(), default=0)
    repeats = 1 if finals else max(r.spec.repeat for r in records) + 1
    strategies = {r.spec.label: r.spec.strategy for r in records}
    return [
        {"task": task, "label": label, "strategy": strategies[label], "repeat": repeat, "trials": trials}
        | ({"final_repeats": max(finals) + 1} if finals else {})
        for repeat in range(repeats)
        for task in dict.fromkeys(r.spec.task.name for r in records)
        for label in strategies
    ]


def _majority(records: Iterable[TrialRecord]) -> dict[str, dict[str, Score]]:
    """Task -> split -> score, for records of schema version 1, which lack it."""
    found: dict[str, dict[str, Score]] = {}
    for record in records:
        if record.majority:
            found.setdefault(record.spec.task.name, record.majority)
    return found
