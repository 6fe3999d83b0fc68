"""The weighted loss of one batch: the terms on this rank, the strategy's view of the global batch, and its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.data.batch import Batch
from harness.data.batches import MetaBatches
from harness.data.labelled_rows import LabelledRows
from harness.look_ahead.steps import Count, LookAheadSteps, make_look_ahead
from harness.loss_terms.bound import LossTerms
from harness.loss_terms.gramian import term_gramian
from harness.loss_terms.logit_terms import TermInputs
from harness.models.build import Outputs
from harness.models.evaluate import predict
from harness.models.student_pass import StudentPass, passes_forward
from harness.ranks import Ranks, of_all_ranks, own_part, own_rows, shard
from harness.training.out_of_memory import InMicroBatches
from strategies.base import Context, Needs, Strategy, TermShape


@dataclass(frozen=True)
class Moment:
    """Where in the training a step stands."""

    epoch: int
    step: int
    progress: float
    learning_rate: float


@dataclass(frozen=True)
class WeightedLoss:
    loss: Tensor
    """This rank's share: the ranks' losses add up to the mean over the global batch."""
    terms: dict[str, Tensor]
    """Unweighted and detached, of the global batch."""
    weights: dict[str, Tensor]
    """Effective weights, in the terms' shapes."""
    context: Context

    def over_the_batch(self) -> Tensor:
        """The mean over the global batch, which every rank knows without asking."""
        totals = [(values * self.weights[name]).sum() for name, values in self.terms.items()]
        return torch.stack(totals).sum() / len(self.context.ids)


class Weighting:
    """Applies one strategy to the batches of one student."""

    def __init__(
        self,
        model: nn.Module,
        strategy: Strategy[Any],
        needs: Needs,
        fit: LabelledRows,
        meta: LabelledRows | None,
        ranks: Ranks,
        count: Count,
        *,
        temperature: float,
        meta_batches: MetaBatches | None,
        precision: str,
        optimizer: torch.optim.Optimizer | None = None,
        clip_norm: float | None = None,
        terms: LossTerms | None = None,
    ) -> None:
        """`optimizer`: the student's, and the norm that its gradient is clipped to before each step; read by look-aheads that
        are to follow it (`precondition: adam`, `look_ahead: adamw`).
        `terms`: the strategy's, which may be left out where they are all plain functions.
        """
        self.model = model
        self.strategy = strategy
        self.needs = needs
        self.terms = terms or LossTerms(needs)
        self.fit = fit
        self.meta = meta
        self.ranks = ranks
        self.temperature = temperature
        self.precision = precision
        self.device = next(model.parameters()).device
        self._count = count
        self.student = StudentPass(model)
        self._look_ahead = self._make_look_ahead(optimizer, clip_norm, meta_batches)

    def forward_pass(self, moment: Moment) -> AbstractContextManager[None]:
        """Around the student's pass on the batch that `loss` will get next."""
        return nullcontext() if self._look_ahead is None else self._look_ahead.forward_pass(moment.step, moment.learning_rate)

    def loss(
        self, moment: Moment, rows: np.ndarray, batch: Batch, outputs: Outputs, generator: torch.Generator
    ) -> WeightedLoss:
        """The loss of the global batch `rows`, of which `batch` and `outputs` are this rank's part.

        Raises ValueError for weights that do not fit the declared terms.
        """
        context = self._context(moment, batch, outputs, generator)
        shape = self.strategy.shape_terms(context)
        terms = self._terms(outputs, batch, self._local_shape(shape, rows))
        # the look-ahead's terms have the study's temperature; those of the step may not
        same_shape = not isinstance(shape.temperature, Tensor) and shape == TermShape(self.temperature)
        known = terms if same_shape else None
        all_terms = of_all_ranks({name: values.detach() for name, values in terms.items()}, len(rows), self.ranks)
        context = replace(
            context,
            terms=all_terms,
            look_ahead=None if self._look_ahead is None else self._look_ahead.function(batch, known),
            term_gramian=self._gramian_function(terms, batch),
            replay=self._replay if self.needs.replay else None,
        )
        weights = self._full_weights(self.strategy.weights(context), all_terms)
        loss = torch.zeros((), device=self.device)
        for name, values in terms.items():
            loss = loss + (values * own_part(weights[name], len(rows), self.ranks)).sum() / batch.global_rows
        return WeightedLoss(loss, all_terms, weights, context)

    def _context(self, moment: Moment, batch: Batch, outputs: Outputs, generator: torch.Generator) -> Context:
        own = [batch.ids, batch.labels, outputs.logits.detach().float(), batch.teacher_logits.transpose(0, 1)]
        student_features = [] if outputs.features is None else [outputs.features.detach().float()]
        teacher_features = batch.teacher_features if self.needs.teacher_features else None
        found = self.ranks.gather_shards([*own, *student_features, *(teacher_features or ())], batch.global_rows)
        ids, labels, student_logits, teacher_logits, *features = found
        return Context(
            step=moment.step,
            epoch=moment.epoch,
            progress=moment.progress,
            learning_rate=moment.learning_rate,
            temperature=self.temperature,
            ids=ids,
            labels=labels,
            student_logits=student_logits,
            teacher_logits=teacher_logits.transpose(0, 1),
            terms={},
            generator=generator,
            student_features=features[0] if student_features else None,
            teacher_features=None if teacher_features is None else tuple(features[len(student_features) :]),
        )

    def _terms(self, outputs: Outputs, batch: Batch, shape: TermShape) -> dict[str, Tensor]:
        inputs = TermInputs(
            student_logits=outputs.logits.float(),
            teacher_logits=batch.teacher_logits,
            labels=batch.labels,
            shape=shape,
            student_features=outputs.features,
            teacher_features=batch.teacher_features,
            student_layers=outputs.layers,
            student_parts=outputs.parts,
            batch=batch,
            ranks=self.ranks,
            own_rows=own_rows(batch.global_rows, self.ranks),
        )
        return self.terms(inputs)

    def _full_weights(self, given: Mapping[str, Any], terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The strategy's weights, broadcast to each term's shape; a mistake in them is named."""
        name = self.strategy.name
        if missing := set(terms) - set(given):
            raise ValueError(f"strategy {name!r} declares the terms {sorted(terms)} but gave no weight for {sorted(missing)}")
        if unknown := set(given) - set(terms):
            raise ValueError(f"strategy {name!r} gave a weight for {sorted(unknown)}, which it does not declare")
        full = {}
        for term, values in terms.items():
            weight = given[term]
            if isinstance(weight, int | float):  # made on the device: a copy to it would be waited for
                weight = torch.full((), weight, dtype=torch.float32, device=self.device)
            else:  # a copy: what is logged is what was applied, whatever the strategy does with its tensor afterwards
                weight = torch.as_tensor(weight, dtype=torch.float32, device=self.device).detach().clone()
            try:
                full[term] = weight.expand(values.shape)
            except RuntimeError:
                raise ValueError(
                    f"strategy {name!r}: the weight of {term!r} has shape {tuple(weight.shape)}, "
                    f"which does not broadcast to the term's {tuple(values.shape)}"
                ) from None
        return full

    def _gramian_function(self, terms: dict[str, Tensor], batch: Batch) -> Callable[[], Tensor] | None:
        if not self.needs.term_gramian:
            return None

        def gramian() -> Tensor:
            again = passes_forward(batch, self.student.micro_batches)
            return term_gramian(self.model, terms, batch, self.ranks, self._count, again)

        return gramian

    @property
    def look_ahead_engine(self) -> str:
        """Empty without a look-ahead."""
        return "" if self._look_ahead is None else self._look_ahead.look_ahead.engine

    @property
    def students(self) -> list[InMicroBatches]:
        """All that passes batches through the student."""
        return [self.student] if self._look_ahead is None else [self.student, self._look_ahead.look_ahead]

    def _make_look_ahead(
        self, optimizer: torch.optim.Optimizer | None, clip_norm: float | None, meta_batches: MetaBatches | None
    ) -> LookAheadSteps | None:
        if self.needs.look_ahead is None:
            return None
        try:
            look_ahead = make_look_ahead(
                self.model,
                lambda outputs, batch: self._terms(outputs, batch, TermShape(self.temperature)),
                self.needs,
                self.terms.needs,
                self.ranks,
                self.precision,
                optimizer,
                clip_norm,
            )
        except ValueError as error:
            raise ValueError(f"strategy {self.strategy.name!r}: {error}") from error
        return LookAheadSteps(look_ahead, self.fit, self.meta, meta_batches, self.ranks, self.precision, self._count)

    def _replay(self, ids: Tensor | None) -> Tensor:
        rows = self.fit if ids is not None else self.meta
        if rows is None:
            raise ValueError(f"strategy {self.strategy.name!r} replays the meta set without declaring `meta_set`")
        indices = np.arange(len(rows)) if ids is None else self.fit.encoded.rows_of(ids.cpu().numpy())
        mine = shard(indices, self.ranks.rank, self.ranks.world)
        self._count(forward=len(mine))
        return self.ranks.gather_rows(predict(self.model, rows.encoded, mine, self.precision).logits.to(self.device))

    def _local_shape(self, shape: TermShape, rows: np.ndarray) -> TermShape:
        temperature = shape.temperature
        if isinstance(temperature, Tensor):
            temperature = temperature.detach().to(self.device)
            if temperature.dim() > 0:
                temperature = own_part(temperature, len(rows), self.ranks)
        return replace(shape, temperature=temperature)
