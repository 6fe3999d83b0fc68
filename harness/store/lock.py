"""One writer at a time: the lock of a store."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import StoreError
from harness.store.files import write_error

_LOOKED_AT_SECONDS = 0.2
"""`is_locked` of another process takes the lock for a moment."""


@contextmanager
def locked(store: Path) -> Iterator[None]:
    """Hold the lock of the folder, which is there. Raises StoreError where another process holds it."""
    try:
        file = (store / ".lock").open("a")
    except OSError as error:
        raise write_error(store / ".lock", error) from error
    with file as lock:
        deadline = time.monotonic() + _LOOKED_AT_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise StoreError(
                        f"another process is writing to {store}. Wait for it to end, or give the study another `name` "
                        f"or `results` folder: one store has one writer at a time."
                    ) from error
                time.sleep(0.01)
        yield


def is_locked(store: Path) -> bool:
    """Whether some process holds the lock."""
    try:
        with (store / ".lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
