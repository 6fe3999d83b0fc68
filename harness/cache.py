"""Where data, tokens and teachers are kept between runs."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import StoreError


def cache_folder() -> Path:
    """`$HARNESS_CACHE`, or `kd-weighting-harness` in the user's cache folder; absolute."""
    given = os.environ.get("HARNESS_CACHE")
    if given:
        return Path(given).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser().resolve() / "kd-weighting-harness"


@contextmanager
def cache_in_use(cache: Path, *, alone: bool = False) -> Iterator[None]:
    """Nobody removes anything from the cache meanwhile. `alone`: nobody else uses it either, else StoreError."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            who = "a study is running with" if alone else "`harness gc --delete` is removing things from"
            raise StoreError(f"{who} the cache {cache}; wait for it to end.") from error
        yield
