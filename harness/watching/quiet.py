"""Other libraries' noise goes to a file; nothing reports usage to the outside. Entered before the heavy imports."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "DATASETS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "Agg",
}
"""Read by the libraries when they are imported, and by the processes that are started here. A set variable stays as it is."""


class _OwnWarnings(logging.Handler):
    """Each text once."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self._told:
            self._told.add(text)
            self._tell(f"note: {text}")


@contextmanager
def quiet_libraries(log_file: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Python's logging and warnings go to `log_file` instead of the terminal, and the libraries are told to keep still.

    What the harness itself warns of in this process, `tell` gets, too: what could not be done as asked is no noise.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(log_file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    own = _OwnWarnings(tell)
    logging.getLogger("harness").addHandler(own)
    try:
        yield
    finally:
        logging.getLogger("harness").removeHandler(own)
        logging.captureWarnings(False)
        root.handlers[:] = handlers
        root.setLevel(level)
        handler.close()
