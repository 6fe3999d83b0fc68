"""How a process that trains shows that it is at work: a file's time, which all nodes of a cluster see. No torch."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

SECONDS = 10.0
"""Between two signs, at least."""
_FILES = "alive-*.json"


class SignOfLife:
    """Called at every step. The file says which process on which node it is, so that one that stands still can be ended."""

    def __init__(self, folder: Path, node: str, rank: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / _FILES.replace("*", str(rank))
        self._file.write_text(json.dumps({"process": os.getpid(), "node": node}), "utf-8")
        self._last = time.monotonic()

    def __call__(self, *_: object) -> None:
        if time.monotonic() - self._last >= SECONDS:
            with contextlib.suppress(FileNotFoundError):  # the trial was given up meanwhile
                os.utime(self._file)
            self._last = time.monotonic()


def last_sign(folder: Path) -> float | None:
    """Time of the last sign of any rank, as time.time() of who wrote it; None before the first."""
    times = []
    for file in folder.glob(_FILES):
        with contextlib.suppress(FileNotFoundError):
            times.append(file.stat().st_mtime)
    return max(times, default=None)


def processes(folder: Path) -> list[tuple[str, int]]:
    """(node, process) of every rank that has shown itself."""
    found = []
    for file in folder.glob(_FILES):
        with contextlib.suppress(OSError, ValueError):
            content = json.loads(file.read_text("utf-8"))
            found.append((str(content["node"]), int(content["process"])))
    return found


def forget(folder: Path) -> None:
    """Before the next try, which has other processes."""
    for file in folder.glob(_FILES):
        file.unlink(missing_ok=True)
