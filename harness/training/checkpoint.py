"""A training's state at the end of an epoch, in one file. Read with `weights_only`: a checkpoint can hold no code."""

from __future__ import annotations

import math
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.records import CostRecord, EpochRecord
from harness.training.failures import is_device_error, is_out_of_memory

if TYPE_CHECKING:  # who watches over ranks asks for checkpoints, too, and does without torch
    import torch
    from torch import Tensor, nn

    from harness.loss_terms.bound import LossTerms
    from strategies.base import Strategy

FILE = "training.ckpt"


@dataclass
class Progress:
    """What changes from epoch to epoch besides the model, the optimiser and the strategy."""

    epoch: int = 0
    step: int = 0
    best_epoch: int = -1
    best_score: float = -math.inf
    best_parameters: dict[str, Tensor] = field(default_factory=dict)
    records: list[EpochRecord] = field(default_factory=list)
    cost: CostRecord = field(default_factory=CostRecord)


class TrialCheckpoint:
    """Where a trial keeps its state, written only where `seconds` of work or more would be lost without.

    It holds the optimiser's state too, and takes longer to write than a small student takes for an epoch.
    """

    def __init__(self, directory: Path, seconds: float) -> None:
        self._directory = directory
        self._seconds = seconds
        self._last = time.monotonic()

    def after_epoch(self, write: Callable[[Path], None]) -> None:
        """`write`: what writes the trial's present state into a directory."""
        now = time.monotonic()
        if now - self._last >= self._seconds:
            write(self._directory)
            self._last = now


def save_checkpoint(
    directory: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    strategy: Strategy[Any],
    terms: LossTerms,
    generator: torch.Generator,
    progress: Progress,
) -> None:
    """Write `directory/training.ckpt`, whole or not at all. Raises OSError."""
    import torch

    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "strategy": strategy.state_dict(),
        "terms": dict(terms.state_dict()),
        "generator": generator.get_state(),
        "epoch": progress.epoch,
        "step": progress.step,
        "best_epoch": progress.best_epoch,
        "best_score": progress.best_score,
        "best_parameters": progress.best_parameters,
        "records": [record.model_dump() for record in progress.records],
        "cost": progress.cost.model_dump(),
    }
    directory.mkdir(parents=True, exist_ok=True)
    unfinished = directory / (FILE + ".tmp")
    try:
        with unfinished.open("wb") as file:
            torch.save(state, file)
    except RuntimeError as error:  # torch hides why a write failed
        raise error.__context__ if isinstance(error.__context__, OSError) else error from None
    unfinished.replace(directory / FILE)


def existing_checkpoint(directory: Path) -> Path | None:
    """The directory, if it holds a finished checkpoint."""
    return directory if (directory / FILE).is_file() else None


def load_checkpoint(
    directory: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    strategy: Strategy[Any],
    terms: LossTerms,
    generator: torch.Generator,
) -> Progress:
    """Restore what `save_checkpoint` wrote. Raises CheckpointError for a file that cannot be read whole."""
    import torch

    file = directory / FILE
    try:
        with zipfile.ZipFile(file) as parts:
            if (damaged := parts.testzip()) is not None:  # torch does not look at the checksums that it writes
                raise ValueError(f"the checksum of {damaged} is wrong")
        state = torch.load(file, map_location=next(model.parameters()).device, weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        if is_device_error(error) or is_out_of_memory(error):
            raise
        raise CheckpointError(f"the checkpoint {file} cannot be read: {error}") from error
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise CheckpointError(f"the checkpoint {file} is of another model: {error}") from error
    optimizer.load_state_dict(state["optimizer"])
    strategy.load_state_dict(state["strategy"])
    terms.load_state_dict(state.get("terms", {}))  # absent from checkpoints made before terms had parameters
    generator.set_state(state["generator"].cpu())
    return Progress(
        epoch=state["epoch"],
        step=state["step"],
        best_epoch=state["best_epoch"],
        best_score=state["best_score"],
        best_parameters={name: tensor.cpu() for name, tensor in state["best_parameters"].items()},
        records=[EpochRecord.model_validate(record) for record in state["records"]],
        cost=CostRecord.model_validate(state["cost"]),
    )


class CheckpointError(Exception):
    """A damaged checkpoint: the engine says so, and starts the trial again from its beginning."""
