"""Trials that stand still are ended, so that they are tried again, and a run in which nothing moves says so.

A stopped process, a rank that waits for ever, a file system that hangs: to Ray all of them are at work.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.training.sign_of_life import last_sign, processes
from harness.watching import Watcher
from harness.watching.console import Console

QUIET_SECONDS = 300.0
"""After so long without a sign of any trial the terminal says so, once."""


class StallWatch:
    """Stays in the process that made it: Tune pickles callbacks, and gets an empty shell."""

    INTERVAL = 5.0

    def __init__(self, stall_minutes: float, watcher: Watcher, console: Console) -> None:
        self._seconds = 60 * stall_minutes
        self._watcher = watcher
        self._console = console
        self._seen: dict[str, tuple[float | None, float]] = {}
        """Key -> its last sign, and when (by our own clock) this process first saw it."""
        self._moved = time.monotonic()
        self._said = False
        self._next = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def step(self, running: Mapping[str, tuple[Path, str]], waiting: Iterable[Mapping[str, float]]) -> None:
        """Cheap to call often. `running`: key -> checkpoint folder and cell of the trials that have a process; `waiting`: what
        those want that have none yet.
        """
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self.INTERVAL
        for key in self._seen.keys() - running.keys():
            del self._seen[key]
            self._has_moved(now)
        for key, (folder, cell) in running.items():
            sign = last_sign(folder)
            if key not in self._seen or self._seen[key][0] != sign:
                self._seen[key] = (sign, now)
                self._has_moved(now)
            elif sign is not None and now - self._seen[key][1] > self._seconds:  # before the first one there is nothing to end
                self._end(key, folder, cell)
                self._seen[key] = (sign, now)  # a process that survives even that is ended again, one stall later
        if now - self._moved > QUIET_SECONDS and not self._said:
            self._said = True
            self._say(running, list(waiting), now - self._moved)

    def _has_moved(self, now: float) -> None:
        self._moved, self._said = now, False

    def _end(self, key: str, folder: Path, cell: str) -> None:
        where = processes(folder)
        silent = f"no sign of life for {self._seconds / 60:g} minutes (`resources.stall_minutes`)"
        error = f"{silent}: its {len(where)} processes are ended"
        self._watcher.happened("trial_stalled", cell=cell, key=key, error=error)
        self._console.note(f"{cell}: {error}, and it is tried again")
        for node, process in where:
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            with contextlib.suppress(ValueError):  # no such node any more: Ray tells that itself
                ray.remote(num_cpus=0, max_retries=0)(_kill).options(scheduling_strategy=there).remote(process)

    def _say(self, running: Mapping[str, Any], waiting: list[Mapping[str, float]], seconds: float) -> None:
        free = {name: amount for name, amount in ray.available_resources().items() if name in ("CPU", "GPU", "memory")}
        said = f"nothing has moved for {seconds / 60:.0f} minutes: {len(running)} trials have a process and are silent"
        if waiting:
            wants = {name: amount for name, amount in waiting[0].items() if amount}
            said += f", {len(waiting)} wait for one (the first wants {wants}); free in the cluster: {free}"
        self._watcher.happened("nothing_moves", running=len(running), waiting=len(waiting), seconds=round(seconds), free=free)
        self._console.note(said)


def _kill(process: int) -> None:
    """Runs on the process's node. SIGKILL ends stopped processes, too."""
    import psutil

    with contextlib.suppress(psutil.Error, ProcessLookupError):
        if psutil.Process(process).cmdline()[0].startswith("ray::"):  # and not another one that has its number by now
            os.kill(process, signal.SIGKILL)
