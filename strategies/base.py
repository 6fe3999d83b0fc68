"""The contract between a loss-weighting strategy and the harness.

The student's loss is

    L = mean_i sum_m  weight[m, i] * term[m, i]

over the samples i of a global batch and the loss terms m. A strategy returns the weights; the harness computes the terms,
applies the weights, logs them, counts what they cost and checks that they are finite.

A strategy always sees the *global* batch: with several workers the harness gathers the (small, detached) statistics of all
ranks first and runs the strategy identically on each of them. A batch statistic is therefore right for any number of workers,
and a strategy never talks to other ranks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from strategies.lazy import torch
from strategies.space import Range

Weights = Mapping[str, "torch.Tensor | float"]


class Cost(StrEnum):
    """What a step costs beside a plain KD step with cached teacher outputs."""

    PLAIN = "plain"  # nothing measurable
    LOOK_AHEAD = "look-ahead"  # extra student passes on the batch and on a meta batch
    PER_TERM = "per-term"  # one extra backward pass per loss term
    REPLAY = "replay"  # now and then a student forward pass over recent batches
    PARTS = "parts"  # student passes on each part of the inputs alone
    LIVE_TEACHER = "live teacher"  # teacher forward passes in the step


class Normalisation(StrEnum):
    """What the strategy promises about its weights, for terms of label ("ce") and teacher kind."""

    CONVEX = "convex"  # every weight in [0, 1]; over all terms they sum to 1 for each sample
    ADDITIVE = "additive"  # non-negative, no fixed sum
    BATCH = "batch"  # non-negative, and one fixed mean over the batch
    FREE = "free"  # nothing


LookAheadEngine = Literal["fd", "jvp", "exact"]
"""A finite difference, forward-mode differentiation, or the literal double backward."""
LookAheadChoice = Literal["auto", LookAheadEngine]
"""auto: the fastest for the device and the precision, from a table (`harness.loss_terms.registry.FASTEST`)."""


LookAheadStep = Literal["sgd", "adamw_point", "adamw"]
"""The step that is looked ahead of: a plain gradient step; or the student's optimiser's own, with the meta gradient there as it
is, or led back through the step."""


class Settings(BaseModel):
    """A strategy's hyper-parameters: subclass, give every field a default and a docstring or `Field(description=...)`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, defer_build=True)

    search_space: ClassVar[dict[str, Range]] = {}
    """The ranges a sweep tries unless the study gives others. Keys are field names."""


@dataclass(frozen=True)
class Needs:
    """What a strategy asks of the harness. A study that cannot provide it is refused before any training."""

    terms: tuple[str, ...] = ("ce", "kd")
    """Loss terms, by name (`harness.loss_terms.logit_terms`, `harness.loss_terms`). A weight is expected for each."""
    teachers: tuple[int, int | None] = (1, 1)
    """Fewest and most teachers (None: any number)."""
    meta_set: bool = False
    """Labelled rows beside the training rows. They are taken from `fit` (see the label budget in studies/PROTOCOL.md)."""
    fit_only: bool = False
    """Without a meta set, and yet no training on its rows where the label budget gives them to everybody."""
    look_ahead: LookAheadChoice | None = None
    """The engine behind `Context.look_ahead`; implies `meta_set` unless `look_ahead_rows` is fit."""
    look_ahead_rows: Literal["meta", "fit"] = "meta"
    """fit: `Context.look_ahead` is always asked with `ids`, so that no meta set is taken from the training rows."""
    look_ahead_options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments for `LookAhead` (`harness/look_ahead/look_ahead.py`), e.g. `{"meta_kd_weight": 1.0}`.
    `{"precondition": "adam"}`: the meta gradient is divided by the root mean square of the student's Adam.
    `{"meta_precision": "bf16"}`: in another precision than the training's.
    `{"step": "adamw"}`: a `LookAheadStep`; `Context.look_ahead` is then asked with weights."""
    term_gramian: bool = False
    """Inner products of the terms' batch-mean gradients, from `Context.term_gramian`."""
    student_features: bool = False
    """The student's pooled vector, [batch, hidden]."""
    teacher_features: bool = False
    """Each teacher's pooled vector."""
    replay: bool = False
    """`Context.replay`: the current student's logits for given training rows or for the meta set."""
    term_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Keyword arguments for loss terms that have any."""

    @property
    def needs_meta_set(self) -> bool:
        return self.meta_set or (self.look_ahead is not None and self.look_ahead_rows == "meta")

    def trains_on_meta(self, label_budget: str) -> bool:
        """Whether the rows that others have for a meta set are training rows. equal_labels: of who needs no meta set, but for
        `fit_only`. equal_fit: of nobody.
        """
        return label_budget == "equal_labels" and not self.needs_meta_set and not self.fit_only


@dataclass(frozen=True)
class RoleView:
    """What a strategy may know of a set of labelled rows before training. CPU tensors, detached."""

    ids: torch.Tensor  # [rows] int64
    labels: torch.Tensor  # [rows] int64
    teacher_logits: torch.Tensor  # [teachers, rows, classes] float32


@dataclass(frozen=True)
class Setup:
    """What is known when training starts."""

    classes: int
    teachers: tuple[str, ...]
    epochs: int
    steps_per_epoch: int
    temperature: float
    fit: RoleView
    meta: RoleView | None
    """None unless the strategy declares `meta_set`, or `look_ahead` on meta rows."""
    student_hidden_size: int
    teacher_hidden_sizes: tuple[int, ...]
    seed: int
    """For the strategy's own initial parameters; the same on all ranks."""
    device: torch.device

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch


class LookAheadFunction(Protocol):
    """See `harness.look_ahead.look_ahead`."""

    def __call__(self, weights: Weights | None = None, ids: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """<gradient of the meta loss, gradient of term[m, i]> for every term m and sample i: name -> [batch].

        The meta gradient is taken at the current student, or, where `weights` are given, after one step of the student on the
        loss that they weigh: SGD's, or its optimiser's where `Needs.look_ahead_options` says so. Then weights have to be given,
        and `adamw` leads it back through the step.

        ids: training rows, [rows], that take the place of the batch and of the meta batch: influences of their terms on their
        own mean cross-entropy, name -> [rows]. `weights` are then for them.
        """
        ...


@dataclass(frozen=True)
class Context:
    """One training step, as a strategy sees it. Tensors are detached, float32, on the student's device; `batch` is global."""

    step: int
    """Optimiser steps done so far."""
    epoch: int
    progress: float
    """0 at the first step, 1 after the last."""
    learning_rate: float
    temperature: float
    ids: torch.Tensor  # [batch] int64
    labels: torch.Tensor  # [batch] int64
    student_logits: torch.Tensor  # [batch, classes]
    teacher_logits: torch.Tensor  # [teachers, batch, classes]
    terms: Mapping[str, torch.Tensor]  # each [batch], or [rows, batch] for terms per teacher or per part of the input
    generator: torch.Generator
    """On the CPU; the same state on all ranks; saved in checkpoints. All randomness of a strategy comes from here."""
    student_features: torch.Tensor | None = None  # [batch, hidden]
    teacher_features: tuple[torch.Tensor, ...] | None = None  # per teacher [batch, hidden of that teacher]
    look_ahead: LookAheadFunction | None = None
    term_gramian: Callable[[], torch.Tensor] | None = None  # -> [terms, terms], in the order of `Needs.terms`
    replay: Callable[[torch.Tensor | None], torch.Tensor] | None = None
    """`replay(ids)` -> the current student's logits [rows, classes] for training rows; `replay(None)` for the whole meta set
    (in the order of `Setup.meta`). Dropout off."""

    @property
    def classes(self) -> int:
        return self.student_logits.shape[-1]


@dataclass(frozen=True)
class TermShape:
    """How the loss terms of this step are to be computed."""

    temperature: torch.Tensor | float  # scalar or [batch]
    teacher_scale: float = 1.0
    """The teacher's logits are multiplied by this in the regression term `mse_logits` (Annealing-KD's Phi)."""
    teacher_share: float = 1.0
    """The teacher's share in the target of the term `interpolated_ce` (TAID's t); the student itself has the rest."""


S = TypeVar("S", bound=Settings)


class Strategy(ABC, Generic[S]):
    """Base class. Register a subclass with `@strategies.register`; see strategies/README.md."""

    name: ClassVar[str]
    family: ClassVar[str]
    summary: ClassVar[str]
    """One line for `python -m harness list strategies`."""
    paper: ClassVar[str]
    """Authors, venue, year, equation; "control" or "convention" where there is no paper."""
    sample_wise: ClassVar[bool]
    """Do two samples of one batch get different weights?"""
    learned: ClassVar[bool] = False
    """Does the strategy train something of its own? Learned strategies are run with their shuffled and batch-mean controls."""
    cost: ClassVar[Cost] = Cost.PLAIN
    normalisation: ClassVar[Normalisation]
    reconstruction: ClassVar[str | None] = None
    """What could not be read in the source, in a sentence; None where the source was read in full."""
    Settings: ClassVar[type[Settings]] = Settings

    def __init__(self, settings: S, setup: Setup) -> None:
        self.settings = settings
        self.setup = setup

    @classmethod
    def needs(cls, settings: S) -> Needs:
        """What this strategy asks of the harness with these settings."""
        return Needs()

    @classmethod
    def refuses(cls, settings: S, classes: int) -> str | None:
        """Why this strategy cannot, or should not, run with these settings on a task of so many classes, and what to do.

        None where it can. A study that has such a cell is refused before any training.
        """
        return None

    @classmethod
    def refuses_teachers(cls, settings: S, hidden_sizes: Mapping[str, int | None]) -> str | None:
        """Why this strategy cannot run with these settings among these teachers, and what to do; None where it can.

        `hidden_sizes`: teacher name -> size of its pooled vector, in the order of `Setup.teachers`. A size is None where only
        the model's files tell it; the question comes again once they are there, before any training.
        """
        return None

    @classmethod
    def normalisation_with(cls, settings: S) -> Normalisation:
        """What the weights promise with these settings: `normalisation`, unless a setting changes it."""
        return cls.normalisation

    @classmethod
    def warm_up(cls, settings: S, epochs: int) -> float:
        """How many epochs, of a training of `epochs`, are a phase whose scores say little of its end.

        Searches with early stopping stop no trial within it.
        """
        return 0.0

    def shape_terms(self, context: Context) -> TermShape:
        """Called before the terms are computed (`context.terms` is empty)."""
        return TermShape(temperature=context.temperature)

    @abstractmethod
    def weights(self, context: Context) -> Weights:
        """A weight for every declared term: a float, a scalar tensor, [batch], or for terms per teacher [teachers, batch]."""

    def after_step(self, context: Context) -> None:
        """Called after the optimiser's step, with the context that `weights` saw."""

    def end_epoch(self, epoch: int, mean_terms: Mapping[str, float]) -> None:
        """Called after each epoch with the epoch's mean of every term over all samples (and teachers)."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on exactly; tensors and plain values only."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
