"""What a training tells after every epoch, and how it is told to end. No torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harness.records import EpochRecord

EpochHook = Callable[[EpochRecord, Callable[[Path], None]], None]
"""Called on every rank after each epoch, with a function that writes a checkpoint into a directory."""


class StoppedEarly(Exception):  # no error
    """Raised by an epoch hook, on every rank: the trial is to end here."""
