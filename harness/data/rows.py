"""Labelled text rows, and the roles that say what each may be used for.

`report` is no part of `TrainingRows`: what is handed to training, selection and meta-learning cannot hold it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class Rows:
    """Rows of one split. `ids` are unique within the split they come from."""

    role: ClassVar[str] = "rows"

    ids: np.ndarray
    """[rows] int64."""
    texts: tuple[list[str], ...]
    """One or two columns of text."""
    labels: np.ndarray
    """[rows] int64, as they are trained or scored on."""
    flipped: np.ndarray | None = None
    """[rows] bool: rows whose label was made wrong on purpose; None where nothing was."""

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: np.ndarray) -> Rows:
        """The rows at `indices`, in that order, as plain `Rows`."""
        return Rows(
            ids=self.ids[indices],
            texts=tuple([column[i] for i in indices] for column in self.texts),
            labels=self.labels[indices],
            flipped=None if self.flipped is None else self.flipped[indices],
        )


@dataclass(frozen=True)
class FitRows(Rows):
    """What the student, the teacher and the strategy train on."""

    role: ClassVar[str] = "fit"


@dataclass(frozen=True)
class MetaRows(Rows):
    """What meta-learning may look at; training rows for everybody else."""

    role: ClassVar[str] = "meta"


@dataclass(frozen=True)
class FitAndMetaRows(FitRows):
    """Fit and meta together: the training rows of a strategy that needs no meta set."""

    role: ClassVar[str] = "fit+meta"


@dataclass(frozen=True)
class SelectRows(Rows):
    """What epochs and hyper-parameters are chosen on."""

    role: ClassVar[str] = "select"


@dataclass(frozen=True)
class ReportRows(Rows):
    """What scores are reported on; read once, after training."""

    role: ClassVar[str] = "report"


@dataclass(frozen=True)
class TrainingRows:
    """All that training may see."""

    fit: FitRows
    meta: MetaRows
    select: SelectRows

    def texts(self) -> list[str]:
        """All text of fit and meta, for making a tokenizer."""
        return [text for part in (self.fit, self.meta) for column in part.texts for text in column]


def join_rows(fit: FitRows, meta: MetaRows) -> FitAndMetaRows:
    """Fit and meta rows as one set. `data.label_noise` flips no meta rows; the generated source plants flips in all."""
    flipped = None
    if fit.flipped is not None or meta.flipped is not None:
        flipped = np.concatenate([_mask(fit), _mask(meta)])
    return FitAndMetaRows(
        ids=np.concatenate([fit.ids, meta.ids]),
        texts=tuple(a + b for a, b in zip(fit.texts, meta.texts, strict=True)),
        labels=np.concatenate([fit.labels, meta.labels]),
        flipped=flipped,
    )


def _mask(rows: Rows) -> np.ndarray:
    return np.zeros(len(rows), bool) if rows.flipped is None else rows.flipped
