"""Inputs of loss terms that tests choose: a small batch, cached teacher outputs, and the set-up of a training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from harness.data.batch import Batch
from harness.data.encode import Encoded
from harness.data.labelled_rows import CachedRows, LabelledRows
from harness.loss_terms.base import LossTerm, TermSetup
from harness.loss_terms.logit_terms import TermInputs
from harness.loss_terms.registry import registered_terms, term_options
from strategies.base import TermShape

ROWS, CLASSES, STUDENT_LAYERS, STUDENT_HIDDEN, VOCABULARY = 6, 3, 2, 4, 12
LENGTHS = np.array([4, 5, 3, 6, 2, 4], np.int32)
SPECIAL = (0, 1)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows(teachers: int = 1, **outputs: torch.Tensor) -> LabelledRows:
    """Six rows; token 1 starts each. `outputs`: name -> [rows, ...], the same of every teacher."""
    generator = np.random.default_rng(3)
    tokens = generator.integers(2, VOCABULARY, LENGTHS.sum()).astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(LENGTHS[:-1], dtype=np.int64)])
    tokens[starts] = 1
    encoded = Encoded(
        ids=np.arange(ROWS),
        labels=np.array([0, 1, 2, 0, 1, 2]),
        flipped=None,
        lengths=LENGTHS,
        tokens=tokens,
        segments=None,
        starts=starts,
        pad_token=0,
        special_tokens=SPECIAL,
    )
    cached = {name: (CachedRows(value.numpy(), np.arange(ROWS)),) * teachers for name, value in outputs.items()}
    return LabelledRows(encoded, normal(teachers, ROWS, CLASSES, seed=1).numpy(), None, cached)


def setup(fit: LabelledRows) -> TermSetup:
    return TermSetup(CLASSES, STUDENT_LAYERS, STUDENT_HIDDEN, VOCABULARY, fit, seed=5, device=torch.device("cpu"))


def make(name: str, fit: LabelledRows, **options: Any) -> LossTerm[Any]:
    return registered_terms()[name](term_options(name, options), setup(fit))


def inputs(fit: LabelledRows, epoch: int = 0, temperature: float = 2.0, **changes: Any) -> TermInputs:
    """All rows as one batch. `changes`: fields of TermInputs."""
    batch: Batch = fit.batch(np.arange(ROWS), ROWS, torch.device("cpu"), epoch)
    given = TermInputs(
        student_logits=normal(ROWS, CLASSES, seed=2),
        teacher_logits=batch.teacher_logits,
        labels=batch.labels,
        shape=TermShape(temperature),
        batch=batch,
    )
    return replace(given, **changes)
