"""Trials one after another in this process, without Ray: for tests, debugging, and machines with a single slot."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from harness.checkpoint import existing_checkpoint
from harness.console import Console
from harness.failures import classify, failed_record, require_teachers
from harness.plan import Cell, Plan, final_specs, trial_spec
from harness.prepared import PreparedTask
from harness.records import TrialRecord, TrialSpec
from harness.search import CellSearch
from harness.store import Store
from harness.trial import TrialOutcome, train_trial

TrainFunction = Callable[..., TrialOutcome]


def run_plan(
    plan: Plan,
    prepared: Mapping[str, PreparedTask],
    store: Store,
    console: Console,
    cache: Path,
    train: TrainFunction = train_trial,
) -> None:
    """Run every trial of the plan that the store does not hold as finished."""
    for cell in plan.cells:
        search = CellSearch.for_cell(plan, cell)
        while (asked := search.ask()) is not None:
            index, values = asked
            spec = trial_spec(plan, cell, index, values, prepared)
            record = _finished(store, spec) or _run(spec, cell, prepared, store, console, cache, train)
            search.tell(index, record.objective)
        for spec in final_specs(plan, cell, prepared, search.best()):
            _finished(store, spec) or _run(spec, cell, prepared, store, console, cache, train)


def _finished(store: Store, spec: TrialSpec) -> TrialRecord | None:
    record = store.get(spec.key)
    return record if record is not None and record.status == "ok" else None


def _run(
    spec: TrialSpec,
    cell: Cell,
    prepared: Mapping[str, PreparedTask],
    store: Store,
    console: Console,
    cache: Path,
    train: TrainFunction,
) -> TrialRecord:
    console.trial_started(cell.id)
    checkpoint = store.path / "running" / spec.key
    predictions = None
    try:
        require_teachers(spec, prepared[spec.task.name])
        outcome = train(spec, cache, on_epoch=lambda _, write: write(checkpoint), resume_from=existing_checkpoint(checkpoint))
        record, predictions = outcome.record, outcome.predictions
    except Exception as error:  # the study goes on; the record says what happened
        record = failed_record(spec, classify(error), prepared[spec.task.name].majority)
    store.write(record, predictions)
    shutil.rmtree(checkpoint, ignore_errors=True)
    console.trial_finished(record, from_store=False)
    return record
