"""How far the teachers are that train now. They do so in other processes, also on other nodes: a small file in the cache, which
all of them see, says it, and goes with the unfinished teacher's folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from harness.teachers.fine_tuning import TeacherJob

FILE = "progress.json"
EVERY_SECONDS = 2.0
"""A file is written, and looked at, at most so often."""

Told = Callable[["TeacherJob", dict[str, Any]], None]
"""Hears of a teacher: epoch (from 1), epochs, loss (mean since the last time), seconds_left (of its training)."""


class ProgressFile:
    """To be called after every step of a training."""

    def __init__(self, folder: Path, epochs: int, total_steps: int) -> None:
        self._file = folder / FILE
        self._epochs = epochs
        self._total = total_steps
        self._started = self._written = time.monotonic()
        self._loss: Tensor | float = 0.0
        self._steps = 0

    def __call__(self, step: int, loss: Tensor) -> None:
        """`step`: how many have been taken. `loss`: [] of the last one; no step waits for it."""
        self._loss, self._steps = self._loss + loss.detach(), self._steps + 1
        now = time.monotonic()
        if now - self._written < EVERY_SECONDS:
            return
        content = {
            "epoch": min(self._epochs, (step - 1) * self._epochs // self._total + 1),
            "epochs": self._epochs,
            "loss": float(self._loss) / self._steps,
            "seconds_left": (now - self._started) / step * (self._total - step),
        }
        self._loss, self._steps, self._written = 0.0, 0, now
        unfinished = self._file.with_suffix(".part")
        unfinished.write_text(json.dumps(content), "utf-8")
        unfinished.replace(self._file)

    def close(self) -> None:
        self._file.unlink(missing_ok=True)


@contextmanager
def following(jobs: Sequence[TeacherJob], cache: Path, told: Told) -> Iterator[None]:
    """Tell what the files say while the context lasts, from a thread."""
    ended = Event()
    thread = Thread(target=_follow, args=(jobs, cache, told, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _follow(jobs: Sequence[TeacherJob], cache: Path, told: Told, ended: Event) -> None:
    known: dict[str, dict[str, Any]] = {}
    while not ended.wait(EVERY_SECONDS):
        for job in jobs:
            try:  # a process that was killed may have left another one
                file = max((cache / "teachers").glob(f"{job.digest}.*/{FILE}"), key=lambda file: file.stat().st_mtime)
                said = json.loads(file.read_text("utf-8"))
            except (OSError, ValueError):  # there is none, or it has gone meanwhile
                continue
            if known.get(job.digest) != said:
                known[job.digest] = said
                told(job, said)
