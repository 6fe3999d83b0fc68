"""What a run is doing, in lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from harness.store.run_state import RunState

SILENT_SECONDS = 60.0
"""A trial that has given no sign of life for so long is shown to be silent."""


def describe(
    state: RunState, active: bool, to_go: int, now: datetime | None = None, silent: Mapping[str, float] | None = None
) -> list[str]:
    """Lines for a terminal. `active`: a process holds the store. `to_go`: planned trials without an end. `silent`: key ->
    seconds since a trial's last sign of life.
    """
    now = now or datetime.now(UTC)
    lines = []
    if active:
        if state.teachers:
            waiting = sorted(name for digest, name in state.teachers.items() if digest not in state.teacher_progress)
            lines += [
                f"teacher {state.teachers[digest]}: {teacher_text(progress)}"
                for digest, progress in state.teacher_progress.items()
            ]
            if waiting:
                lines.append(f"teachers being made: {', '.join(waiting)}")
        lines += [
            f"running: {one.cell} {'final run' if one.purpose == 'final' else f'trial {one.trial}'}, "
            f"{one.epochs} epochs done, for {duration((now - one.since).total_seconds())}{_silence((silent or {}).get(key))}"
            for key, one in sorted(state.running.items(), key=lambda item: item[1].since)
        ]
        if state.waiting:
            lines.append(f"nothing moves: {state.waiting} trials wait for a process; does the cluster have room for them?")
    else:
        lines.append("no process is running this study now")
    rate = state.rate(now if active else None)
    if rate is not None:
        parts = [f"{state.finished} trials ended in the last run, {rate:.3g} an hour on {state.slots} slots"]
        if active and to_go:
            parts.append(f"about {duration(to_go / rate * 3600)} left")
        if (use := state.slot_use()) is not None:
            parts.append(f"slot use {use:.0%} (training time / slots x wall time)")
        lines.append("; ".join(parts))
    troubles = [
        f"{count} {text}"
        for count, text in (
            (state.failed, "failed"),
            (state.retried, "times tried again"),
            (state.stalled, "stood still and were ended"),
            (state.nodes_lost, "nodes lost"),
        )
        if count
    ]
    if troubles:
        lines.append(f"in the last run: {', '.join(troubles)}")
    return lines


def teacher_text(progress: Mapping[str, Any]) -> str:
    """Of a teacher that trains: its epoch (from 1), epochs, loss and seconds_left."""
    return (
        f"epoch {progress['epoch']} of {progress['epochs']}, loss {progress['loss']:.3f}, "
        f"about {duration(progress['seconds_left'])} of training left"
    )


def _silence(seconds: float | None) -> str:
    return "" if seconds is None or seconds < SILENT_SECONDS else f", silent for {duration(seconds)}"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
