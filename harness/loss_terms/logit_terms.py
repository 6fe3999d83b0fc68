"""The loss terms that strategies weigh, by name: those that need logits and labels alone.

A term is a function of what one batch gives, [batch] or [teachers, batch], never reduced. `TERMS` is the table; a plugin adds
its own with `TERMS["name"] = function` before training. A term that needs more, or has parameters, is a class:
`harness.loss_terms`.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from harness.loss_terms import losses
from harness.ranks import Ranks, Single
from strategies.base import TermShape

if TYPE_CHECKING:
    from harness.data.batch import Batch


@dataclass(frozen=True)
class TermInputs:
    """What a term may use of one batch. The student's tensors carry its graph."""

    student_logits: Tensor  # [batch, classes]
    teacher_logits: Tensor  # [teachers, batch, classes]
    labels: Tensor  # [batch] int64
    shape: TermShape
    student_features: Tensor | None = None  # [batch, hidden]
    teacher_features: tuple[Tensor, ...] | None = None  # per teacher [batch, hidden of that teacher]
    student_layers: Tensor | None = None  # [layers, batch, hidden]
    student_parts: Tensor | None = None  # [parts, batch, classes]
    batch: Batch | None = None
    """The rank's rows, as the student saw them."""
    ranks: Ranks = field(default_factory=Single)
    own_rows: slice = field(default_factory=lambda: slice(None))
    """Where the rank's rows lie in the global batch."""


TermFunction = Callable[..., Tensor]
"""(inputs, **options) -> [batch] or [teachers, batch]."""


def ce(inputs: TermInputs) -> Tensor:
    """Cross-entropy with the label, [batch]."""
    return losses.cross_entropy(inputs.student_logits, inputs.labels)


def kd(inputs: TermInputs) -> Tensor:
    """Mean over teachers of `losses.kd`, [batch]."""
    return kd_each(inputs).mean(0)


def kd_each(inputs: TermInputs) -> Tensor:
    """`losses.kd` with each teacher, [teachers, batch]."""
    return losses.kd(*_pair(inputs), inputs.shape.temperature)


def mse_logits(inputs: TermInputs) -> Tensor:
    """Mean over teachers of `losses.mse_logits` at the step's `teacher_scale`, [batch]."""
    return losses.mse_logits(*_pair(inputs), inputs.shape.teacher_scale).mean(0)


def tckd(inputs: TermInputs) -> Tensor:
    """Mean over teachers of `losses.tckd`, [batch]."""
    return losses.tckd(*_pair(inputs), inputs.labels, inputs.shape.temperature).mean(0)


def nckd(inputs: TermInputs) -> Tensor:
    """Mean over teachers of `losses.nckd`, [batch]."""
    return losses.nckd(*_pair(inputs), inputs.labels, inputs.shape.temperature).mean(0)


def standardised_kd(inputs: TermInputs) -> Tensor:
    """Mean over teachers of `losses.standardised_kd`, [batch]."""
    return losses.standardised_kd(*_pair(inputs), inputs.shape.temperature).mean(0)


TERMS: dict[str, TermFunction] = {
    "ce": ce,
    "kd": kd,
    "kd_each": kd_each,
    "mse_logits": mse_logits,
    "tckd": tckd,
    "nckd": nckd,
    "standardised_kd": standardised_kd,
}


def compute_terms(
    names: Iterable[str], inputs: TermInputs, options: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Tensor]:
    """Name -> term, in the order of `names`. `options` holds keyword arguments by term name.

    Raises ValueError for an unknown term, an option that a term does not have, and a teacher's term without teachers.
    """
    options = options or {}
    terms = {}
    for name in names:
        function = term_function(name)
        given = options.get(name, {})
        if unknown := set(given) - set(list(inspect.signature(function).parameters)[1:]):
            raise ValueError(f"loss term {name!r} has no option {sorted(unknown)}")
        terms[name] = function(inputs, **given)
    return terms


def term_function(name: str) -> TermFunction:
    """The term called `name`. Raises ValueError that lists what there is."""
    if name not in TERMS:
        near = difflib.get_close_matches(name, TERMS, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no loss term {name!r}. Known terms: {', '.join(sorted(TERMS))}.{hint}")
    return TERMS[name]


def _pair(inputs: TermInputs) -> tuple[Tensor, Tensor]:
    """Student and teacher logits, both [teachers, batch, classes]."""
    if inputs.teacher_logits.shape[0] == 0:
        raise ValueError("a loss term compares with teachers, and this batch has none")
    return inputs.student_logits.expand_as(inputs.teacher_logits), inputs.teacher_logits
