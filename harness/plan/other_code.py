"""Trials that would be answered from a store, and that another form of the harness's code has made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.numeric_code import numeric_code
from harness.plan.plan import SHARED, Cell, Plan, trial_spec
from harness.plan.prepared import PreparedTask
from harness.records import TrialRecord, TrialSpec


def made_by_other_code(plan: Plan, records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Of `records`, those that are a trial of this plan as it is, on the same rows and teachers, but for the code.

    Data and teachers are not looked at: where they have changed, the trial is run again whatever made it. Failed trials are run
    again, too.
    """
    cells = {(cell.task.name, cell.entry.shown, cell.repeat): cell for cell in plan.cells}
    found = []
    for record in records:
        spec = record.spec
        if record.status == "failed" or spec.harness_code in ("", numeric_code()):
            continue
        final = spec.purpose == "final"
        cell = cells.get((spec.task.name, spec.label, 0 if final else spec.repeat))
        if cell is not None and _planned_as(plan, cell, spec) == record.key:
            found.append(record)
    return found


def not_recorded(records: Iterable[TrialRecord]) -> int:
    """How many finished trials say nothing of the code."""
    return sum(record.status != "failed" and not record.spec.harness_code for record in records)


def _planned_as(plan: Plan, cell: Cell, spec: TrialSpec) -> str | None:
    """The key of the trial that the plan has in this place, with the values that the stored one was given."""
    if len(spec.teacher_digests) != len(cell.teachers):
        return None
    digests = dict(zip((teacher.name for teacher in cell.teachers), spec.teacher_digests, strict=True))
    prepared = {
        cell.task.name: PreparedTask(
            data_digest=spec.data_digest,
            digests={},
            rows={},
            origin="",
            majority={},
            student_digest=spec.student_digest,
            teacher_digests=digests,
        )
    }
    values = {} if spec.index == 0 else {key: _value(spec, key) for key in cell.space}
    if None in values.values():
        return None
    final = spec.repeat if spec.purpose == "final" else None
    return trial_spec(plan, cell, spec.index, values, prepared, final_repeat=final).key


def _value(spec: TrialSpec, key: str) -> Any:
    given: Mapping[str, Any] = spec.training.model_dump() if key.startswith(SHARED) else spec.settings
    return given.get(key.removeprefix(SHARED))
