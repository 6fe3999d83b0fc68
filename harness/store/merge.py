"""Results from several machines into one store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import StoreError
from harness.records import TrialRecord
from harness.store.prediction_table import to_frame
from harness.store.store import Store
from harness.study.comparisons import ProtocolSpec
from harness.study.schema import TrainingSpec
from harness.whole_folder import whole_folder


@dataclass(frozen=True)
class Conflict:
    """A trial that two stores hold with different results, though everything that determines them is the same."""

    key: str
    place: str
    """task/label/repeat/index"""
    kept: str
    """Store whose record is in the merged one."""
    other: str
    difference: str

    def __str__(self) -> str:
        return f"{self.place} ({self.key}): {self.difference}; kept what {self.kept} says, not {self.other}"


@dataclass
class Merged:
    added: int = 0
    already_there: int = 0
    replaced_failures: int = 0
    """Failed trials in one store that succeeded in another."""
    students: int = 0
    """Kept students that were copied."""
    conflicts: list[Conflict] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    manifest_differences: list[str] = field(default_factory=list)

    def text(self) -> str:
        lines = [f"{self.added} trials added, {self.already_there} were there already"]
        if self.replaced_failures:
            lines.append(f"{self.replaced_failures} failed trials replaced by ones that succeeded")
        if self.students:
            lines.append(f"{self.students} students copied")
        lines += [f"conflict: {conflict}" for conflict in self.conflicts]
        lines += [f"damaged, left out: {one}" for one in self.damaged]
        lines += [f"manifests differ: {one}" for one in self.manifest_differences]
        return "\n".join(lines)


def merge_stores(sources: Sequence[Path], target: Path) -> Merged:
    """Copy the trials of all `sources` into `target` (made where it is not there), in the order given, with their students.

    A trial that is there already stays, unless it failed and now succeeded. Two successes with different results are a
    conflict: the first stays, and the result names it. Raises StoreError for a source that holds no trial, and for sources
    made from different studies (other models or data), which must not share a table.
    """
    merged = Merged()
    stores = [Store(path) for path in sources]
    for store in stores:
        if not store.keys():
            raise StoreError(f"{store.path} holds no trial: nothing to merge")
    goal = Store(target)
    manifests = [(str(store.path), store.manifest()) for store in (goal, *stores)]
    merged.manifest_differences += _compare_manifests([(name, manifest) for name, manifest in manifests if manifest])
    with goal.writing():
        origin = {record.key: str(goal.path) for record in goal.records()}
        for store in stores:
            for record in store.records():
                _take(merged, goal, store, record, origin)
            _take_teachers(goal, store)
            merged.damaged += [f"{store.path}/{damage}" for damage in store.damaged.values()]
        goal.write_manifest(_merge_manifests([manifest for _, manifest in manifests if manifest]))
        # names alone: a store is published, and where its sources lay is of no use to others
        goal.event("merged", sources=[path.resolve().name for path in sources], added=merged.added)
    return merged


def _take(merged: Merged, goal: Store, store: Store, record: TrialRecord, origin: dict[str, str]) -> None:
    there = goal.get(record.key)
    if there is not None:
        if there.status != "ok" and record.status == "ok":
            merged.replaced_failures += 1
        else:
            merged.already_there += 1
            difference = _difference(there, record)
            if difference:
                spec = record.spec
                place = f"{spec.task.name}/{spec.label}/{spec.repeat}/{spec.index}"
                merged.conflicts.append(Conflict(record.key, place, origin[record.key], str(store.path), difference))
            elif record.status == "ok":
                _take_student(merged, goal, store, record.key)
            return
    else:
        merged.added += 1
    predictions = None
    if record.status == "ok":
        try:
            predictions = store.predictions(record.key)
        except StoreError as error:
            merged.damaged.append(str(error))
            merged.added -= there is None
            return
    shutil.rmtree(goal.student_folder(record.key), ignore_errors=True)  # of a trial that failed in the end
    _take_student(merged, goal, store, record.key)
    goal.write(record, predictions)
    origin[record.key] = str(store.path)


def _take_teachers(goal: Store, store: Store) -> None:
    """What teachers said; their names tell two trainings of one recipe apart. Damaged ones are noted in `store.damaged`."""
    for name in set(store.teachers()) - set(goal.teachers()):
        with suppress(StoreError):
            goal.teacher_files.write(name, to_frame(store.teacher_table(name)))


def _take_student(merged: Merged, goal: Store, store: Store, key: str) -> None:
    source, target = store.student_folder(key), goal.student_folder(key)
    if not source.is_dir() or target.exists():
        return
    with whole_folder(target) as unfinished:
        shutil.copytree(source, unfinished, dirs_exist_ok=True)
    merged.students += 1


def _difference(kept: TrialRecord, other: TrialRecord) -> str:
    """Empty where both say the same. Cost, time and environment may differ: machines do."""
    if other.status != "ok":
        return ""  # it may have run out of memory there; the success counts
    said = []
    if kept.objective != other.objective:
        said.append(f"objective {kept.objective} and {other.objective}")
    for split in sorted(set(kept.report) | set(other.report)):
        scores = [record.report[split].metrics if split in record.report else None for record in (kept, other)]
        if scores[0] != scores[1]:
            said.append(f"{split} {json.dumps(scores[0], sort_keys=True)} and {json.dumps(scores[1], sort_keys=True)}")
    environments = [record.environment for record in (kept, other)]
    if said and environments[0] != environments[1]:
        names = [name for name in sorted(set().union(*environments)) if environments[0].get(name) != environments[1].get(name)]
        said.append(f"their {', '.join(names)} differ")
    return "; ".join(said)


def _compare_manifests(manifests: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Differences that a reader should know. Raises StoreError for those that forbid one table."""
    if not manifests:
        return []
    first_name, first = manifests[0]
    found = []
    for name, other in manifests[1:]:
        for task in sorted(set(first.get("digests", {})) & set(other.get("digests", {}))):
            if first["digests"][task] != other["digests"][task]:
                raise StoreError(
                    f"{first_name} and {name} were made on different rows of {task}: their digests differ. Scores on different "
                    f"rows cannot share a table; give both the same data, caps and data.seed."
                )
        for key in ("models", "protocol"):
            if _declared(first, key) != _declared(other, key):
                raise StoreError(f"{first_name} and {name} differ in the study's `{key}`: they cannot share a table.")
        studies = [manifest.get("study", {}) for manifest in (first, other)]
        entries = [{one.get("label") or one["name"]: one for one in study.get("strategies", [])} for study in studies]
        for label in sorted(set(entries[0]) & set(entries[1])):
            one, two = (_said(named[label]) for named in entries)
            if one != two:
                raise StoreError(
                    f"{label!r} is {one} in {first_name} and {two} in {name}: a label is one strategy with one set of "
                    "settings. Give one of them another `label`, and run it again"
                )
        tasks = [{_task_name(task) for task in study.get("tasks", [])} for study in studies]
        for task in sorted(tasks[0] & tasks[1]):
            if _training(studies[0], task) != _training(studies[1], task):
                raise StoreError(
                    f"{first_name} and {name} differ in how {task} is trained (`training`): they cannot share a table."
                )
        for key in ("training", "search"):
            if studies[0].get(key) != studies[1].get(key):
                found.append(f"`{key}` of {first_name} and {name}")
        commits = [(manifest.get("git") or {}).get("commit") for manifest in (first, other)]
        if commits[0] != commits[1]:
            found.append(f"commits {commits[0]} ({first_name}) and {commits[1]} ({name})")
    return found


def _declared(manifest: dict[str, Any], section: str) -> Any:
    """A section of the study; what came later into the protocol is at its default in an older one."""
    found = manifest.get("study", {}).get(section)
    return {**ProtocolSpec().model_dump(mode="json"), **(found or {})} if section == "protocol" else found


def _said(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of `strategies` without what it leaves open."""
    return {key: value for key, value in entry.items() if value not in (None, {}, [])}


def _task_name(task: Any) -> str:
    return str(task["name"] if isinstance(task, dict) else task)


def _training(study: dict[str, Any], task: str) -> dict[str, Any]:
    """What came later is at its default in an older one."""
    own = (study.get("training_per_task") or {}).get(task, {})
    return {**TrainingSpec().model_dump(mode="json"), **(study.get("training") or {}), **own}


def _merge_manifests(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    """The first manifest with every store's tasks, what is said for one of them, strategies, cells and trials."""
    if not manifests:
        return {}
    merged = dict(manifests[0])
    for other in manifests[1:]:
        for key in ("digests", "rows", "official_rows", "teachers", "data_origin"):
            merged[key] = {**other.get(key, {}), **merged.get(key, {})}
        for key in ("planned_cells", "protocol_warnings"):
            merged[key] = _union(merged.get(key, []), other.get(key, []))
        if "trials" in merged and "trials" in other:
            merged["trials"] = _union(merged["trials"], other["trials"])
        else:  # of a run that was stopped, which does not name what it has: the latest of what is there
            merged.pop("trials", None)
        study, more = dict(merged.get("study", {})), other.get("study", {})
        new = sorted({_task_name(task) for task in more.get("tasks", [])} - {_task_name(t) for t in study.get("tasks", [])})
        for key in ("tasks", "strategies"):
            study[key] = _union(study.get(key, []), more.get(key, []))
        for key in ("data", "training"):  # what holds for all tasks there holds here for those that come from there
            per_task, here = f"{key}_per_task", study.get(key) or {}
            said = dict(more.get(per_task) or {})
            for task in new:
                whole = {**(more.get(key) or {}), **said.pop(task, {})}
                if own := {name: value for name, value in whole.items() if here.get(name) != value}:
                    said[task] = own
            study[per_task] = {**said, **(study.get(per_task) or {})}
        merged["study"] = study
        merged["started_at"] = min(filter(None, (merged.get("started_at"), other.get("started_at"))), default=None)
        ends = [end for end in (merged.get("finished_at"), other.get("finished_at")) if end]
        merged["finished_at"] = max(ends) if len(ends) == 2 else None
    return merged


def _union(first: list[Any], second: list[Any]) -> list[Any]:
    return [*first, *(one for one in second if one not in first)]
