"""Real training in which one rank runs out of memory: only rank 1, only from the second epoch on, and only in large passes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from harness.records import EpochRecord, TrialSpec

LABEL = "short of memory"
"""Of the strategy whose trials have room for `ROOM` rows a pass."""
ROOM = 4


def short_of_memory_train(
    spec: TrialSpec,
    cache: Path,
    ranks: Any = None,
    on_epoch: Callable[[EpochRecord, Callable[[Path], None]], None] | None = None,
    resume_from: Path | None = None,
    micro_batches: int = 1,
    **_: Any,
) -> Any:
    from harness.models import student_pass
    from harness.training.trial import train_trial

    original, epochs_done = student_pass.run_batch, 0
    with (cache / f"ranks of {spec.label}").open("a") as log:
        log.write(f"{ranks.rank} {os.getpid()} {micro_batches} {resume_from is not None}\n")

    def run_batch(model: Any, batch: Any, *rest: Any) -> Any:
        full = spec.label == LABEL and ranks.rank == 1 and (epochs_done > 0 or resume_from is not None)
        if full and torch.is_grad_enabled() and len(batch.ids) > ROOM:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return original(model, batch, *rest)

    def counted(record: EpochRecord, write: Callable[[Path], None]) -> None:
        nonlocal epochs_done
        epochs_done += 1
        if on_epoch is not None:
            on_epoch(record, write)

    with patch.object(student_pass, "run_batch", run_batch):
        return train_trial(spec, cache, ranks=ranks, on_epoch=counted, resume_from=resume_from, micro_batches=micro_batches)
