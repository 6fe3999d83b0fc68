"""The contract between a loss term and the harness, for terms that ask for more than logits and labels.

A term declares what it needs, may own trainable parameters, and returns one number a sample. It never reduces, never weighs
(that is a strategy's) and never talks to other ranks but through `TermInputs.ranks`. Terms of logits alone are plain functions
in `harness.loss_terms.logit_terms`. No torch at import: plans read the declarations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from strategies.lazy import torch

if TYPE_CHECKING:
    from harness.data.labelled_rows import LabelledRows
    from harness.loss_terms.logit_terms import TermInputs


class TermOptions(BaseModel):
    """A term's options, given by a strategy's `Needs.term_options`: subclass, give every field a default."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


@dataclass(frozen=True)
class TermNeeds:
    """What a term asks of the harness. A study that cannot provide it is refused before any training."""

    student_features: bool = False
    """`TermInputs.student_features`: the student's pooled vector."""
    student_layers: bool = False
    """`TermInputs.student_layers`: the hidden state, after each of the student's layers, of the token that
    its classifier reads."""
    parts: bool = False
    """`TermInputs.student_parts`: the student's logits on each part of the input alone. One student pass a part."""
    teacher_outputs: tuple[str, ...] = ()
    """Cached outputs of the teachers beside their logits (`harness.data.output_names`), in `Batch.teacher_outputs`."""
    word_drop: float = 0.0
    """Share of the words that are left out of the student's training inputs, drawn anew each epoch. All terms see them."""
    whole_batch: bool = False
    """A sample's value depends on other samples: the term gathers them over ranks, with their gradient."""
    stops_gradient: bool = False
    """A part of the value that depends on the student is held still for the gradient. Differences of values do not see that."""
    logit_level: bool = False
    """A value changes where one number is added to all logits of a teacher on a row. Probabilities do not say that number."""
    bypasses_head: bool = False
    """The gradient does not come through the student's logits, so that a loss of such terms alone reaches neither the
    classification head nor, perhaps, the last layers."""
    same_architecture: bool = False
    """Every teacher must be of the student's own architecture."""


@dataclass(frozen=True)
class TermSetup:
    """What is known when training starts; the same on all ranks."""

    classes: int
    student_layers: int
    student_hidden_size: int
    vocabulary: int
    """Rows of the student's token embedding."""
    fit: LabelledRows
    """The training rows: labels, tokens and the teachers' cached outputs."""
    seed: int
    device: torch.device


O = TypeVar("O", bound=TermOptions)  # noqa: E741


class LossTerm(ABC, Generic[O]):
    """Base class. Register a subclass with `@register_term`; a strategy then names it in `Needs.terms`.

    Parameters and buffers of `module` are the same on all ranks and saved in checkpoints. Parameters are trained with the
    student's optimiser on the student's loss: their gradients are summed over ranks and clipped apart from the student's.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    scales: ClassVar[str | None] = None
    """The plain term that this one multiplies by a number a sample: such numbers are weights as well, and are looked at so."""
    Options: ClassVar[type[TermOptions]] = TermOptions
    module: torch.nn.Module | None = None
    learning_rate_scale: float = 1.0
    """The module's learning rate, in those of the student."""

    def __init__(self, options: O, setup: TermSetup) -> None:
        self.options = options
        self.setup = setup

    @classmethod
    def needs(cls, options: O) -> TermNeeds:
        """What this term asks of the harness with these options."""
        return TermNeeds()

    @abstractmethod
    def __call__(self, inputs: TermInputs) -> torch.Tensor:
        """The rank's samples' values, [batch], or [rows, batch] where each row is a term of its own, such as one a teacher."""
