"""A strategy's look-ahead through a training: its meta batches, the pass that it repeats, ranks, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from harness.data.batch import Batch
from harness.data.batches import MetaBatches
from harness.data.labelled_rows import LabelledRows
from harness.look_ahead.adam import AdamWStep, adam_direction
from harness.look_ahead.look_ahead import LookAhead, Terms
from harness.loss_terms.base import TermNeeds
from harness.loss_terms.registry import look_ahead_engine, look_ahead_refusal, step_refusal
from harness.models.evaluate import width_step
from harness.models.forward_trace import ForwardTrace
from harness.ranks import Ranks, of_all_ranks, own_part, shard
from strategies.base import LookAheadFunction, Needs


class Count(Protocol):
    """Counts the samples of a student pass beside the training step's own."""

    def __call__(self, forward: int = 0, backward: int = 0) -> None: ...


class LookAheadSteps:
    """One student's look-ahead, step by step.

    Where a strategy asks in every step, and its `shortest_step` says that the student's is too short to be taken, the meta
    gradient is taken before the training pass instead of when it is asked for, so that the graphs of both never stand in memory
    together. The values are the same.
    """

    def __init__(
        self,
        look_ahead: LookAhead,
        fit: LabelledRows,
        meta: LabelledRows | None,
        meta_batches: MetaBatches | None,
        ranks: Ranks,
        precision: str,
        count: Count,
    ) -> None:
        self.look_ahead = look_ahead
        self._fit = fit
        self._meta = meta
        self._meta_batches = meta_batches
        self._ranks = ranks
        self._precision = precision
        self._width_step = width_step(look_ahead.device, precision)
        self._count = count
        self._step = 0
        self._learning_rate = 0.0
        self._trace: ForwardTrace | None = None
        self._prepared: tuple[Batch, list[Tensor]] | None = None
        """Meta batch and meta gradient."""
        self._stayed = (-2, -1)
        """The last two steps in which the meta gradient was taken where the student stood; at first, as if it had been."""

    def forward_pass(self, step: int, learning_rate: float) -> AbstractContextManager[None]:
        """Around the student's training pass, after which `function` is called."""
        self._step, self._learning_rate = step, learning_rate
        self._prepare()
        self._trace = self.look_ahead.new_trace(masks_alone=not self._same_precision)
        return self._trace.record()

    @property
    def _same_precision(self) -> bool:
        """Of the training pass and of the look-ahead's on the same batch: else only the dropout masks are the same."""
        return self.look_ahead.terms_precision == self._precision

    def function(self, batch: Batch, terms: Mapping[str, Tensor] | None) -> LookAheadFunction:
        """What the strategy gets for this rank's part `batch` of the step's global batch.

        terms   of the training pass, as the look-ahead would compute them; None where they differ
        """
        base_terms = terms if self._trace is not None and self._same_precision else None

        def influence(weights: Any = None, ids: Tensor | None = None) -> dict[str, Tensor]:
            rows = batch if ids is None else self._fit_batch(ids)
            own = largest = None
            if weights is not None:
                largest = self.look_ahead.largest(weights, self._learning_rate)
                given = {name: torch.as_tensor(weight).detach().to(batch.ids.device) for name, weight in weights.items()}
                own = {name: own_part(weight, rows.global_rows, self._ranks) for name, weight in given.items()}
            if ids is not None:
                with self._counted():
                    found = self.look_ahead.influence(rows, rows, self._learning_rate, own, largest=largest)
                return of_all_ranks(found, rows.global_rows, self._ranks)
            meta_batch, meta_gradient = self._prepared or (self._meta_batch(), None)
            self._prepared = None
            with self._counted():
                found = self.look_ahead.influence(
                    batch,
                    meta_batch,
                    self._learning_rate,
                    own,
                    base_terms=base_terms,
                    trace=self._trace,
                    largest=largest,
                    meta_gradient=meta_gradient,
                )
            if not self.look_ahead.takes_step(self._learning_rate, largest) and self._step != self._stayed[1]:
                self._stayed = (self._stayed[1], self._step)
            return of_all_ranks(found, rows.global_rows, self._ranks)

        return influence

    def _prepare(self) -> None:
        """Take the meta gradient, if the last two steps say that it will be asked for. Where they are wrong, as with a strategy
        that asks in every other step, once in a training, its passes were for nothing.
        """
        self._prepared = None
        asked = self._stayed == (self._step - 2, self._step - 1)
        if asked and self._meta is not None and not self.look_ahead.takes_step(self._learning_rate, 1.0):
            meta_batch = self._meta_batch()
            with self._counted():
                self._prepared = meta_batch, self.look_ahead.meta_gradient_here(meta_batch)

    def _fit_batch(self, ids: Tensor) -> Batch:
        """The rank's part of the training rows with these ids."""
        rows = self._fit.encoded.rows_of(ids.cpu().numpy())
        if len(rows) < self._ranks.world:
            raise ValueError(f"a look-ahead on {len(rows)} training rows, and each of {self._ranks.world} workers needs one")
        mine = shard(rows, self._ranks.rank, self._ranks.world)
        return self._fit.batch(mine, len(rows), self.look_ahead.device, width_step=self._width_step)

    def _meta_batch(self) -> Batch:
        if self._meta is None or self._meta_batches is None:
            raise ValueError("a look-ahead on training rows needs their ids: context.look_ahead(weights, ids)")
        rows = self._meta_batches.at(self._step)
        mine = shard(rows, self._ranks.rank, self._ranks.world)
        return self._meta.batch(mine, len(rows), self.look_ahead.device, width_step=self._width_step)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        before = (self.look_ahead.student_forward, self.look_ahead.student_backward)
        yield
        self._count(self.look_ahead.student_forward - before[0], self.look_ahead.student_backward - before[1])


def make_look_ahead(
    model: nn.Module,
    terms: Terms,
    needs: Needs,
    term_needs: TermNeeds,
    ranks: Ranks,
    precision: str,
    optimizer: torch.optim.Optimizer | None,
    clip_norm: float | None,
) -> LookAhead:
    """The look-ahead that a strategy declares. Raises ValueError where such terms, or the optimizer, do not allow it.

    `clip_norm`: of the student's gradient before its steps.
    """
    assert needs.look_ahead is not None
    if reason := look_ahead_refusal(term_needs, needs.look_ahead, ranks.world):
        raise ValueError(reason)
    if reason := step_refusal(needs.look_ahead_options):
        raise ValueError(reason)
    options = dict(needs.look_ahead_options)
    like_adam = options.pop("precondition", None) == "adam"
    meta_precision = options.pop("meta_precision", "training")
    look_ahead = LookAhead(
        model,
        terms,
        look_ahead_engine(term_needs, needs.look_ahead, ranks.world, precision, next(model.parameters()).device.type),
        meta_precision=precision if meta_precision == "training" else meta_precision,
        jvp_precision=precision,
        features=term_needs.student_features,
        layer_features=term_needs.student_layers,
        reduce_sum=ranks.sum_,
        **options,
    )
    if like_adam or look_ahead.step != "sgd":
        if optimizer is None:
            raise ValueError("it looks ahead with the student's Adam, and no optimizer was given")
        if like_adam:
            look_ahead.precondition = adam_direction(optimizer, look_ahead.parameters)
        else:
            look_ahead.optimizer_step = AdamWStep(optimizer, look_ahead.parameters, clip_norm)
    return look_ahead
