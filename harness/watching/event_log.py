"""events.jsonl: what happened when, one JSON object a line, for programs and for `harness status`."""

from __future__ import annotations

from typing import Any

from harness.records import CostRecord, EpochRecord, TrialRecord, TrialSpec
from harness.store.store import Store
from harness.watching import Watcher

KINDS = {
    "started": "the process that runs the study: trials, cells",
    "teacher_started": "a teacher is to be made, or found in the cache: task, teacher, digest; on a full cluster it may wait",
    "teacher_progress": "it trains, every 15 seconds: task, teacher, digest, epoch (from 1), epochs, loss (mean of the "
    "last steps), seconds_left",
    "teacher_finished": "it is ready: task, teacher, digest",
    "teacher_failed": "it could not be made, its trials are marked: task, teacher, digest, error",
    "slots": "trials are about to run: slots (so many at once), cells",
    "trial_started": "a trial was dealt out: cell, key, purpose, trial (its number in the cell)",
    "epoch": "a trial has ended an epoch: cell, key, epoch (from 1), train_loss, select, seconds; micro_batches where "
    "memory ran out and batches are passed in so many parts",
    "trial_finished": "a trial is stored: cell, key, purpose, trial, objective, train_seconds, total_seconds",
    "trial_stopped": "a search stopped a trial early: cell, key, purpose, trial, epoch (its last one, from 1), train_seconds, "
    "total_seconds",
    "trial_failed": "a trial has failed for good: cell, key, purpose, trial, error_kind, error",
    "trial_retried": "a trial lost its process, node or GPU and starts again from its checkpoint: cell, key, error",
    "trial_stalled": "a trial gave no sign of life for `resources.stall_minutes`, its processes are ended: cell, key, error",
    "nothing_moves": "no trial gave a sign of life for minutes: running, waiting (trials without a process), seconds, free",
    "checkpoint_damaged": "a checkpoint cannot be read, its trial starts from its beginning: cell, key, error",
    "out_of_memory": "a rank ran out of memory, its trial goes on from its last epoch in smaller parts: cell, key, error",
    "damaged": "a record or its predictions are not what was written, the trial counts as not run: path, reason",
    "node_joined": "a node of the cluster appeared while trials ran: node, cpus, gpus",
    "node_lost": "a node of the cluster is gone: node, cpus, gpus",
    "ended": "the run has ended, or was interrupted: done, failed, from_store",
}
"""Kind -> when it is written: its fields. All have `time` (UTC, ISO 8601) and `kind`."""


class EventLog(Watcher):
    def __init__(self, store: Store) -> None:
        self._store = store

    def started(self, spec: TrialSpec) -> None:
        self._store.event("trial_started", **_place(spec))

    def epoch(self, spec: TrialSpec, record: EpochRecord) -> None:
        self._store.event(
            "epoch",
            cell=spec.cell_id,
            key=spec.key,
            epoch=record.epoch + 1,
            train_loss=record.train_loss,
            select=record.select,
            seconds=round(record.seconds, 3),
            **({"micro_batches": record.micro_batches} if record.micro_batches > 1 else {}),
        )

    def ended(self, record: TrialRecord) -> None:
        if record.status == "stopped":
            self._store.event("trial_stopped", **_place(record.spec), epoch=record.stopped_after_epoch, **_seconds(record.cost))
        elif record.error is None:
            self._store.event("trial_finished", **_place(record.spec), objective=record.objective, **_seconds(record.cost))
        else:
            error = f"{record.error.type}: {record.error.message}"
            self._store.event("trial_failed", **_place(record.spec), error_kind=record.error.kind, error=error)

    def happened(self, kind: str, **fields: Any) -> None:
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is no kind of event; describe it in harness.watching.event_log.KINDS")
        self._store.event(kind, **fields)


def _seconds(cost: CostRecord) -> dict[str, float]:
    return {"train_seconds": round(cost.train_seconds, 3), "total_seconds": round(cost.total_seconds, 3)}


def _place(spec: TrialSpec) -> dict[str, Any]:
    return {"cell": spec.cell_id, "key": spec.key, "purpose": spec.purpose, "trial": spec.index}
