"""What a training tells after every step and epoch, and how it is told to end. No torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.records import EpochRecord

if TYPE_CHECKING:
    from torch import Tensor

EpochHook = Callable[[EpochRecord, Callable[[Path], None]], None]
"""Called on every rank after each epoch, with a function that writes a checkpoint into a directory."""

StepHook = Callable[[int, "Tensor"], None]
"""Called after each step with the number of steps so far, and the loss of this one, [] on the device."""


class StoppedEarly(Exception):  # no error
    """Raised by an epoch hook, on every rank: the trial is to end here."""
