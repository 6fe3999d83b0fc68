"""Trials one after another in this process, without Ray: for tests, debugging, and machines with a single slot."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from harness.engine.router import Router
from harness.errors import UserError
from harness.plan.plan import Plan
from harness.plan.prepared import PreparedTask
from harness.records import EpochRecord, TrialSpec
from harness.store.store import Store
from harness.training.checkpoint import CheckpointError, TrialCheckpoint, existing_checkpoint
from harness.training.failures import classify
from harness.training.hooks import StoppedEarly
from harness.training.trial import TrialOutcome, train_trial
from harness.watching import watching
from harness.watching.console import Console


class LostDeviceError(UserError):
    """A CUDA error: all later trials of this process would meet it."""


TrainFunction = Callable[..., TrialOutcome]


def run_plan(
    plan: Plan,
    prepared: Mapping[str, PreparedTask],
    store: Store,
    console: Console,
    cache: Path,
    train: TrainFunction = train_trial,
) -> None:
    """Run every trial of the plan that the store does not hold as finished. Raises StoreError."""
    with watching(plan, store, console.note) as watcher:
        watcher.happened("slots", slots=1, cells=len(plan.cells))
        router = Router(plan, plan.cells, prepared, store, console, watcher=watcher)
        while (spec := router.next()) is not None:
            checkpoint = store.path / "running" / spec.key
            try:
                outcome = _train(train, spec, cache, checkpoint, router)
            except Exception as error:  # the study goes on; the record says what happened
                record = classify(error)
                router.fail(spec, record)
                if record.kind == "device":
                    raise LostDeviceError(
                        f"the GPU failed in trial {spec.cell_id}/{spec.index}, and this process cannot use it any more: "
                        f"{record.message}. The same command tries this trial again and goes on from there; under Ray "
                        f"(`--engine ray`) another process would have."
                    ) from error
            else:
                router.finish(outcome.record, outcome.predictions)
            if not plan.study.keep_checkpoints:
                shutil.rmtree(checkpoint, ignore_errors=True)
    if not plan.study.keep_checkpoints:
        shutil.rmtree(store.path / "running", ignore_errors=True)


def _train(train: TrainFunction, spec: TrialSpec, cache: Path, checkpoint: Path, router: Router) -> TrialOutcome:
    """Go on from the checkpoint where there is one that can be read."""
    state = TrialCheckpoint(checkpoint, spec.resources.checkpoint_seconds)

    def on_epoch(record: EpochRecord, write: Callable[[Path], None]) -> None:
        state.after_epoch(write)
        if router.epoch(spec.key, record):
            raise StoppedEarly

    folder = router.student_folder(spec)
    keep: dict[str, Path] = {} if folder is None else {"student_folder": folder}
    try:
        return train(spec, cache, on_epoch=on_epoch, resume_from=existing_checkpoint(checkpoint), **keep)
    except CheckpointError as error:
        router.happened("checkpoint_damaged", spec.key, str(error))
        return train(spec, cache, on_epoch=on_epoch, resume_from=None, **keep)
