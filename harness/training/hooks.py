"""What a training tells after every step and epoch, and how it is told to end. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.records import EpochRecord, TrialRecord

if TYPE_CHECKING:
    from torch import Tensor

Write = Callable[[Path], None]
"""Writes a checkpoint into a directory."""


@dataclass(frozen=True)
class EpochEnd:
    """A trial after an epoch. Called with a directory, it writes its checkpoint there."""

    write: Write
    if_stopped: Callable[[], TrialRecord]
    """What is to be stored of the trial if it ends here."""

    def __call__(self, directory: Path) -> None:
        self.write(directory)


EpochHook = Callable[[EpochRecord, EpochEnd], None]
"""Called on every rank after each epoch of a trial."""

StepHook = Callable[[int, "Tensor"], None]
"""Called after each step with the number of steps so far, and the loss of this one, [] on the device."""


class StoppedEarly(Exception):  # no error
    """Raised by an epoch hook, on every rank: the trial is to end here."""
