"""What a run is doing and how fast, from its event log. No pandas, no torch: `harness status` asks for it every few seconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass
class RunningTrial:
    cell: str
    trial: int
    purpose: str
    since: datetime
    epochs: int = 0
    """Epochs that have ended."""


@dataclass
class RunState:
    """Of the last run in an event log."""

    started: datetime
    trials: int
    """Planned, those found in the store included."""
    running: dict[str, RunningTrial] = field(default_factory=dict)
    """By key."""
    teachers: dict[str, str] = field(default_factory=dict)
    """Digest -> task/name of the teachers that are being made."""
    teacher_progress: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Digest -> epoch, epochs, loss and seconds_left of those that train, as last heard."""
    finished: int = 0
    """Trials that ended in this run, failed ones too."""
    failed: int = 0
    retried: int = 0
    stalled: int = 0
    nodes_lost: int = 0
    waiting: int = 0
    """Trials without a process when nothing had moved for a while; 0 where something has moved since."""
    slots: int = 0
    train_seconds: float = 0.0
    """Optimisation alone, of the trials that finished."""
    slot_seconds: float = 0.0
    """Slots x seconds that they were there."""
    first: datetime | None = None
    """When trials began to run."""
    last: datetime | None = None
    """Time of the last event."""
    ended: bool = False

    def rate(self, now: datetime | None) -> float | None:
        """Trials an hour since trials began to run, until `now` or, where that is None, until the last event of the run; None
        while none has finished.
        """
        if self.first is None or not self.finished:
            return None
        until = self.last if now is None or self.ended else now
        assert until is not None  # there was an event
        return self.finished / max((until - self.first).total_seconds(), 1e-3) * 3600

    def slot_use(self) -> float | None:
        """Pure training time over slots x wall time, up to the last trial that finished."""
        return self.train_seconds / self.slot_seconds if self.slot_seconds > 0 and self.finished else None


def run_state(events: Iterable[Mapping[str, Any]]) -> RunState | None:
    """The state of the last run in `events`; None where none has started."""
    found = None
    for state in _runs(events):
        found = state
    return found


def last_working_run(events: Iterable[Mapping[str, Any]]) -> RunState | None:
    """The last run in which a trial ended; a later one may have found all in the store. None where there is none."""
    found = None
    for state in _runs(events):
        found = state if state.finished else found
    return found


def _runs(events: Iterable[Mapping[str, Any]]) -> Iterator[RunState]:
    state: RunState | None = None
    slots_since: datetime | None = None
    for event in events:
        kind, time = event["kind"], datetime.fromisoformat(event["time"])
        if kind == "started":
            if state is not None:
                yield state
            state, slots_since = RunState(time, event.get("trials", 0)), None
        if state is None:
            continue
        if state.ended or kind == "merged":  # what came after it, or from other machines
            continue
        state.last = time
        if kind == "slots":
            if slots_since is not None:  # trials of another shape ended, and left the slots empty until now
                state.slot_seconds += state.slots * (time - slots_since).total_seconds()
            state.slots, slots_since = event["slots"], time
            state.first = state.first or time
        elif kind == "trial_started":
            state.running[event["key"]] = RunningTrial(event["cell"], event["trial"], event["purpose"], time)
        elif kind == "epoch" and event["key"] in state.running:
            state.running[event["key"]].epochs = event["epoch"]
        elif kind in ("trial_finished", "trial_failed", "trial_stopped"):
            state.running.pop(event["key"], None)
            state.finished += 1
            state.failed += kind == "trial_failed"
            state.train_seconds += event.get("train_seconds", 0.0)
            if slots_since is not None:
                state.slot_seconds += state.slots * (time - slots_since).total_seconds()
                slots_since = time
        elif kind == "teacher_started":
            state.teachers[event["digest"]] = f"{event['task']}/{event['teacher']}"
        elif kind == "teacher_progress":
            state.teacher_progress[event["digest"]] = event
        elif kind in ("teacher_finished", "teacher_failed"):
            state.teachers.pop(event["digest"], None)
            state.teacher_progress.pop(event["digest"], None)
        elif kind == "ended":
            state.ended = True
        state.retried += kind == "trial_retried"
        state.stalled += kind == "trial_stalled"
        if kind == "nothing_moves":
            state.waiting = event["waiting"]
        elif kind in ("trial_started", "epoch", "trial_finished", "trial_failed", "trial_stopped"):
            state.waiting = 0
        state.nodes_lost += kind == "node_lost"
    if state is not None:
        yield state
