"""What the simulated device counts, and where in the project it was asked for."""

from __future__ import annotations

import collections
import traceback
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[4]
PLACES = tuple(str(PROJECT / room) + "/" for room in ("harness", "strategies"))
OWN = str(Path(__file__).resolve().parent)
MACHINERY = ("/torch/utils/_", "/torch/_ops.py", "/torch/_dynamo/", "/torch/_compile.py", "/torch/_library/")


class Counters:
    """`syncs` and `mixed_scalars`: (what, place) -> how often; `launches`: operation -> ...; `attention`: backend -> ..."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.syncs: collections.Counter[tuple[str, str]] = collections.Counter()
        self.launches: collections.Counter[str] = collections.Counter()
        self.attention: collections.Counter[str] = collections.Counter()
        self.mixed_scalars: collections.Counter[tuple[str, str]] = collections.Counter()
        self.h2d = 0
        self.d2h = 0
        self.pinned = 0

    def add(self, other: Counters) -> None:
        for name in ("syncs", "launches", "attention", "mixed_scalars"):
            getattr(self, name).update(getattr(other, name))
        for name in ("h2d", "d2h", "pinned"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


COUNT = Counters()


class DeviceError(RuntimeError):
    """What real CUDA would have refused."""


def sync(kind: str) -> None:
    """The host waits for the GPU."""
    COUNT.syncs[(kind, place())] += 1


def place() -> str:
    """file:line of the innermost frame of the project, and the innermost one of a library above it."""
    frames = traceback.extract_stack()
    library = None
    for frame in reversed(frames):
        path = frame.filename
        if path.startswith(OWN) or any(part in path for part in MACHINERY):
            continue
        if path.startswith(PLACES):
            own = f"{path.removeprefix(str(PROJECT) + '/')}:{frame.lineno}"
            break
        if library is None and "site-packages" in path:
            library = f"{path.split('site-packages/')[-1]}:{frame.lineno}"
    else:
        own = "(backward thread)" if len(frames) < 12 else "(outside the project)"
    return own if library is None else f"{own} <- {library}"
