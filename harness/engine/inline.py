"""Trials in this process, one after another or stacked, without Ray: for tests, debugging, and machines with a single slot."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from harness.engine.router import Router
from harness.errors import UserError
from harness.plan.plan import Plan
from harness.plan.prepared import PreparedTask
from harness.records import EpochRecord, TrialSpec
from harness.store.store import Store
from harness.training.checkpoint import CheckpointError, TrialCheckpoint, existing_checkpoint
from harness.training.failures import classify
from harness.training.hooks import StoppedEarly
from harness.training.stacked import Seat, run_stacked
from harness.training.trial import TrialOutcome, train_trial
from harness.watching import watching
from harness.watching.console import Console


class LostDeviceError(UserError):
    """A CUDA error: all later trials of this process would meet it."""


TrainFunction = Callable[..., TrialOutcome]
Main = Callable[[Callable[[], Any]], Any]
"""Calls a function in the process's main thread."""


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
        work = _Work(plan, router, store, cache, train)
        while not router.finished:
            if plan.study.resources.stacked == 1:
                work.all_there_is()
            else:
                run_stacked([work.all_there_is] * plan.study.resources.stacked, stop_at_error=True)
    if not plan.study.keep_checkpoints:
        shutil.rmtree(store.path / "running", ignore_errors=True)


class _Work:
    def __init__(self, plan: Plan, router: Router, store: Store, cache: Path, train: TrainFunction) -> None:
        self._keep_checkpoints = plan.study.keep_checkpoints
        self._router = router
        self._running = store.path / "running"
        self._cache = cache
        self._train = train

    def all_there_is(self, seat: Seat | None = None) -> None:
        """One trial after another, until none can be started; with a `seat` beside others, which share their passes."""
        main = seat.in_main_thread if seat is not None else _here
        while (spec := main(self._router.next)) is not None:
            try:
                outcome: TrialOutcome | Exception = self._trained(spec, seat, main)
            except Exception as error:  # the study goes on; the record says what happened
                outcome = error
            main(partial(self._end, spec, outcome))

    def _end(self, spec: TrialSpec, outcome: TrialOutcome | Exception) -> None:
        if isinstance(outcome, Exception):
            record = classify(outcome)
            self._router.fail(spec, record)
            if record.kind == "device":
                raise LostDeviceError(
                    f"the GPU failed in trial {spec.cell_id}/{spec.index}, and this process cannot use it any more: "
                    f"{record.message}. The same command tries this trial again and goes on from there; under Ray "
                    f"(`--engine ray`) another process would have."
                ) from outcome
        else:
            self._router.finish(outcome.record, outcome.predictions)
        if not self._keep_checkpoints:
            shutil.rmtree(self._running / spec.key, ignore_errors=True)

    def _trained(self, spec: TrialSpec, seat: Seat | None, main: Main) -> TrialOutcome:
        """Go on from the checkpoint where there is one that can be read."""
        checkpoint = self._running / spec.key
        state = TrialCheckpoint(checkpoint, spec.resources.checkpoint_seconds)

        def ended(record: EpochRecord, write: Callable[[Path], None]) -> None:
            state.after_epoch(write)
            if self._router.epoch(spec.key, record):
                raise StoppedEarly

        options: dict[str, Any] = {"on_epoch": lambda record, write: main(partial(ended, record, write))}
        if (folder := self._router.student_folder(spec)) is not None:
            options["student_folder"] = folder
        if seat is not None and main(partial(self._router.may_share, spec)):
            options["ranks"] = seat
        try:
            return self._train(spec, self._cache, resume_from=existing_checkpoint(checkpoint), **options)
        except CheckpointError as error:
            main(partial(self._router.happened, "checkpoint_damaged", spec.key, str(error)))
            return self._train(spec, self._cache, resume_from=None, **options)


def _here(function: Callable[[], Any]) -> Any:
    return function()
