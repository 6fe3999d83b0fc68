"""Trials one after another in this process, without Ray: for tests, debugging, and machines with a single slot."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from harness.checkpoint import existing_checkpoint
from harness.console import Console
from harness.engine.router import Router
from harness.failures import classify
from harness.plan import Plan
from harness.prepared import PreparedTask
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
    router = Router(plan, plan.cells, prepared, store, console)
    while (spec := router.next()) is not None:
        checkpoint = store.path / "running" / spec.key
        try:
            outcome = train(
                spec,
                cache,
                on_epoch=lambda _, write, folder=checkpoint: write(folder),
                resume_from=existing_checkpoint(checkpoint),
            )
        except Exception as error:  # the study goes on; the record says what happened
            router.fail(spec, classify(error))
        else:
            router.finish(outcome.record, outcome.predictions)
        shutil.rmtree(checkpoint, ignore_errors=True)
