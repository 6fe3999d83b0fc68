"""Labelled text rows, and the roles that say what each may be used for.

`report` is no part of `TrainingRows`: what is handed to training, selection and meta-learning cannot hold it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

R = TypeVar("R", bound="Rows")


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
    """What the student, the teachers and the strategy train on."""

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
class TeacherRows(Rows):
    """What the teachers alone train on: `fit`, and the rows that `data.teacher_rows` gives them."""

    role: ClassVar[str] = "teacher"


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


@dataclass(frozen=True)
class TaskData:
    train: Rows
    report: dict[str, Rows]
    """`validation`, and what other labelled splits there are, e.g. MNLI's `validation_mismatched`."""
    origin: str
    """For captions and errors."""
    notes: tuple[str, ...] = ()
    """What a user should know of them, in lines for the terminal."""


def rows_in_common(report: Rows, trained: Iterable[Rows]) -> int:
    """How many rows of `report` have a text that a row of `trained` has, too, in all columns and letter by letter."""
    seen = {text for rows in trained for text in zip(*rows.texts, strict=True)}
    return sum(text in seen for text in zip(*report.texts, strict=True))


def join_rows(role: type[R], first: Rows, second: Rows) -> R:
    """Both as one set. Where one of them has a mask of flips and the other has none, nothing in the other is flipped."""
    flipped = None
    if first.flipped is not None or second.flipped is not None:
        flipped = np.concatenate([_mask(first), _mask(second)])
    return role(
        ids=np.concatenate([first.ids, second.ids]),
        texts=tuple(a + b for a, b in zip(first.texts, second.texts, strict=True)),
        labels=np.concatenate([first.labels, second.labels]),
        flipped=flipped,
    )


def _mask(rows: Rows) -> np.ndarray:
    return np.zeros(len(rows), bool) if rows.flipped is None else rows.flipped
