"""The training loop of one model: plain PyTorch, on one rank or several, with or without Ray around it.

A student and a teacher are trained by the same loop; a teacher's strategy weighs cross-entropy alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.checkpoint import Progress, load_checkpoint, save_checkpoint
from harness.data.batch import Batch
from harness.data.batches import LengthBucketedBatches, MetaBatches, shard
from harness.data.encode import Encoded
from harness.evaluate import autocast, predict, resolve_precision
from harness.failures import DivergedError
from harness.lookahead import LookAhead
from harness.models import Outputs, run_model
from harness.ranks import Ranks
from harness.records import EpochRecord, Seeds
from harness.seeds import derive_seed
from harness.study import Recipe
from harness.tasks import compute_metrics
from harness.term_gramian import term_gramian
from harness.terms import TermInputs, compute_terms
from harness.weight_log import WeightLog
from strategies.base import Context, Needs, Strategy, TermShape

EpochHook = Callable[[EpochRecord, Callable[[Path], None]], None]
"""Called on every rank after each epoch, with a function that writes a checkpoint into a directory."""


@dataclass(frozen=True)
class LabelledRows:
    """Tokenised rows, and what the teachers say of them."""

    encoded: Encoded
    teacher_logits: np.ndarray
    """[teachers, rows, classes] float32."""
    teacher_features: tuple[np.ndarray, ...] | None = None
    """Per teacher [rows, hidden]."""

    def __len__(self) -> int:
        return len(self.encoded.ids)

    def batch(self, indices: np.ndarray, global_rows: int, device: torch.device) -> Batch:
        features = None
        if self.teacher_features is not None:
            features = tuple(torch.from_numpy(np.asarray(f[indices], dtype=np.float32)) for f in self.teacher_features)
        return Batch(
            ids=torch.from_numpy(self.encoded.ids[indices]),
            labels=torch.from_numpy(self.encoded.labels[indices]),
            inputs=self.encoded.inputs(indices),
            teacher_logits=torch.from_numpy(self.teacher_logits[:, indices]),
            teacher_features=features,
            global_rows=global_rows,
        ).to(device)


class Training:
    """One model's training. `run` leaves the kept epoch's parameters in `model`."""

    def __init__(
        self,
        model: nn.Module,
        strategy: Strategy[Any],
        needs: Needs,
        fit: LabelledRows,
        meta: LabelledRows | None,
        select: Encoded,
        recipe: Recipe,
        seeds: Seeds,
        metrics: Sequence[str],
        headline: str,
        ranks: Ranks,
        *,
        temperature: float = 1.0,
        meta_batch_size: int = 32,
    ) -> None:
        self.model = model
        self.strategy = strategy
        self.needs = needs
        self.fit = fit
        self.meta = meta
        self.select = select
        self.recipe = recipe
        self.seeds = seeds
        self.metrics = metrics
        self.headline = headline
        self.ranks = ranks
        self.temperature = temperature
        self.device = next(model.parameters()).device
        self.precision = resolve_precision(recipe.precision, self.device)
        self.batches = LengthBucketedBatches(fit.encoded.lengths, recipe.batch_size, seeds.order)
        self.meta_batches = MetaBatches(len(meta), meta_batch_size, seeds.order) if meta is not None else None
        self.total_steps = recipe.epochs * steps_per_epoch(len(fit), recipe.batch_size)
        self.optimizer = _adamw(model, recipe)
        self.generator = torch.Generator().manual_seed(seeds.strategy)
        self.progress = Progress()
        self._wrapped = ranks.wrap(model)
        self._look_ahead = self._make_look_ahead()
        self._row_of_id: dict[int, int] | None = None

    def run(self, on_epoch: EpochHook | None = None, resume_from: Path | None = None) -> Progress:
        """Train to the end, from the checkpoint in `resume_from` where there is one.

        Raises DivergedError for a loss, weight or score that is not finite.
        """
        if resume_from is not None:
            self._load(resume_from)
        for epoch in range(self.progress.epoch, self.recipe.epochs):
            record = self._epoch(epoch)
            if on_epoch is not None:
                on_epoch(record, self._save)
        if self.recipe.keep == "best":
            self.model.load_state_dict(self.progress.best_parameters)
        self._finish_cost()
        return self.progress

    def _epoch(self, epoch: int) -> EpochRecord:
        progress = self.progress
        # One seed an epoch: a run that resumes here needs no saved generator state, on any number of ranks.
        torch.manual_seed(derive_seed(self.seeds.dropout, epoch, self.ranks.rank))
        started = time.perf_counter()
        log = WeightLog(self.fit.encoded.flipped)
        sums: dict[str, Tensor] = {}
        loss_sum = torch.zeros((), device=self.device)
        for rows in self.batches.epoch(epoch):
            loss, terms = self._step(epoch, rows, log)
            loss_sum += loss * len(rows)
            for name, values in terms.items():
                sums[name] = sums.get(name, 0.0) + values.sum() / (values.shape[0] if values.dim() == 2 else 1)
        self._check_finite(epoch, loss_sum, sums)
        progress.cost.train_seconds += time.perf_counter() - started
        mean_terms = {name: float(total) / len(self.fit) for name, total in sums.items()}
        self.strategy.end_epoch(epoch, mean_terms)
        select = self._select_score()
        progress.epoch = epoch + 1
        if not math.isfinite(select[self.headline]):
            raise DivergedError(f"{self.headline} on the select rows is {select[self.headline]} after epoch {epoch + 1}")
        if self.recipe.keep == "last" or select[self.headline] > progress.best_score:
            progress.best_epoch, progress.best_score = epoch, select[self.headline]
            if self.recipe.keep == "best":
                progress.best_parameters = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}
        record = EpochRecord(
            epoch=epoch,
            train_loss=float(loss_sum) / len(self.fit),
            terms=mean_terms,
            select=select,
            weights=log.summary(),
            seconds=time.perf_counter() - started,
        )
        progress.records.append(record)
        return record

    def _step(self, epoch: int, rows: np.ndarray, log: WeightLog) -> tuple[Tensor, dict[str, Tensor]]:
        """One optimiser step on the global batch `rows`; returns its loss and the unweighted terms of all samples."""
        progress = self.progress
        batch = self.fit.batch(shard(rows, self.ranks.rank, self.ranks.world), len(rows), self.device)
        learning_rate = self.learning_rate(progress.step)
        self._wrapped.train()
        with autocast(self.device, self.precision):
            outputs: Outputs = run_model(self._wrapped, batch.inputs, features=self.needs.student_features)
        self._count(forward=len(batch.ids))
        context = self._context(epoch, learning_rate, batch, outputs)
        shape = self.strategy.shape_terms(context)
        terms = self._terms(outputs, batch, self._local_shape(shape, batch, rows))
        all_terms = {name: self.ranks.gather_rows(values.detach(), dim=-1) for name, values in terms.items()}
        context = replace(
            context,
            terms=all_terms,
            look_ahead=self._look_ahead_function(batch, shape, rows, learning_rate),
            term_gramian=(lambda: term_gramian(self.model, terms, batch, self.ranks, self._count))
            if self.needs.term_gramian
            else None,
            replay=self._replay if self.needs.replay else None,
        )
        weights = self._full_weights(self.strategy.weights(context), all_terms)
        loss = torch.zeros((), device=self.device)
        for name, values in terms.items():
            loss = loss + (values * self._mine(weights[name], rows)).sum() / batch.global_rows
        # DDP averages gradients over ranks; the loss is a sum over the global batch
        (loss * self.ranks.world).backward()
        self._count(backward=len(batch.ids))
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        self.strategy.after_step(context)
        log.add(rows, weights, _teacher_right(context))
        global_loss = loss.detach().clone()
        self.ranks.sum_([global_loss])
        return global_loss, all_terms

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then linear decay to zero."""
        warmup = int(self.recipe.warmup_fraction * self.total_steps)
        if step < warmup:
            return self.recipe.learning_rate * (step + 1) / warmup
        return self.recipe.learning_rate * (self.total_steps - step) / max(1, self.total_steps - warmup)

    def _context(self, epoch: int, learning_rate: float, batch: Batch, outputs: Outputs) -> Context:
        gather = self.ranks.gather_rows
        student = None if outputs.features is None else gather(outputs.features.detach().float())
        teachers = None
        if self.needs.teacher_features and batch.teacher_features is not None:
            teachers = tuple(gather(f) for f in batch.teacher_features)
        return Context(
            step=self.progress.step,
            epoch=epoch,
            progress=self.progress.step / max(1, self.total_steps - 1),
            learning_rate=learning_rate,
            temperature=self.temperature,
            ids=gather(batch.ids),
            labels=gather(batch.labels),
            student_logits=gather(outputs.logits.detach().float()),
            teacher_logits=gather(batch.teacher_logits, dim=1),
            terms={},
            generator=self.generator,
            student_features=student,
            teacher_features=teachers,
        )

    def _terms(self, outputs: Outputs, batch: Batch, shape: TermShape) -> dict[str, Tensor]:
        inputs = TermInputs(
            student_logits=outputs.logits.float(),
            teacher_logits=batch.teacher_logits,
            labels=batch.labels,
            shape=shape,
            student_features=outputs.features,
            teacher_features=batch.teacher_features,
        )
        return compute_terms(self.needs.terms, inputs, self.needs.term_options)

    def _mine(self, values: Tensor, rows: np.ndarray) -> Tensor:
        """This rank's part of [..., global batch]."""
        if self.ranks.world == 1:
            return values
        mine = shard(np.arange(len(rows)), self.ranks.rank, self.ranks.world)
        return values[..., int(mine[0]) : int(mine[-1]) + 1]

    def _local_shape(self, shape: TermShape, batch: Batch, rows: np.ndarray) -> TermShape:
        temperature = shape.temperature
        if isinstance(temperature, Tensor):
            temperature = temperature.detach().to(self.device)
            if temperature.dim() > 0:
                temperature = self._mine(temperature, rows)
        return replace(shape, temperature=temperature)

    def _full_weights(self, given: Any, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """The strategy's weights, broadcast to each term's shape; a mistake in them is named."""
        name = self.strategy.name
        if missing := set(terms) - set(given):
            raise ValueError(f"strategy {name!r} declares the terms {sorted(terms)} but gave no weight for {sorted(missing)}")
        if unknown := set(given) - set(terms):
            raise ValueError(f"strategy {name!r} gave a weight for {sorted(unknown)}, which it does not declare")
        full = {}
        for term, values in terms.items():
            weight = torch.as_tensor(given[term], dtype=torch.float32, device=self.device).detach()
            try:
                full[term] = weight.expand(values.shape)
            except RuntimeError:
                raise ValueError(
                    f"strategy {name!r}: the weight of {term!r} has shape {tuple(weight.shape)}, "
                    f"which does not broadcast to the term's {tuple(values.shape)}"
                ) from None
        return full

    def _make_look_ahead(self) -> LookAhead | None:
        if self.needs.look_ahead is None:
            return None
        return LookAhead(
            self.model,
            lambda outputs, batch: self._terms(outputs, batch, TermShape(self.temperature)),
            self.needs.look_ahead,
            reduce_sum=self.ranks.sum_,
            **dict(self.needs.look_ahead_options),
        )

    def _look_ahead_function(self, batch: Batch, shape: TermShape, rows: np.ndarray, learning_rate: float) -> Any:
        look_ahead = self._look_ahead
        if look_ahead is None:
            return None

        def influence(weights: Any = None) -> dict[str, Tensor]:
            assert self.meta is not None
            assert self.meta_batches is not None
            meta_rows = self.meta_batches.at(self.progress.step)
            mine = shard(meta_rows, self.ranks.rank, self.ranks.world)
            meta_batch = self.meta.batch(mine, len(meta_rows), self.device)
            local = None
            if weights is not None:
                local = {name: self._mine(torch.as_tensor(w).detach().to(self.device), rows) for name, w in weights.items()}
            before = (look_ahead.student_forward, look_ahead.student_backward)
            found = look_ahead.influence(batch, meta_batch, learning_rate, local)
            self._count(look_ahead.student_forward - before[0], look_ahead.student_backward - before[1])
            return {name: self.ranks.gather_rows(values, dim=-1) for name, values in found.items()}

        return influence

    def _replay(self, ids: Tensor | None) -> Tensor:
        rows = self.fit if ids is not None else self.meta
        if rows is None:
            raise ValueError(f"strategy {self.strategy.name!r} replays the meta set without declaring `meta_set`")
        if ids is None:
            indices = np.arange(len(rows))
        else:
            if self._row_of_id is None:
                self._row_of_id = {int(i): row for row, i in enumerate(self.fit.encoded.ids)}
            indices = np.array([self._row_of_id[int(i)] for i in ids.cpu()])
        self._count(forward=len(indices))
        return predict(self.model, rows.encoded, indices, self.precision).logits.to(self.device)

    def _select_score(self) -> dict[str, float]:
        indices = np.arange(len(self.select.ids))
        logits = predict(self.model, self.select, shard(indices, self.ranks.rank, self.ranks.world), self.precision).logits
        predicted = self.ranks.gather_rows(logits.argmax(-1).to(self.device)).cpu().numpy()
        return compute_metrics(self.metrics, self.select.labels, predicted)

    def _check_finite(self, epoch: int, loss_sum: Tensor, sums: dict[str, Tensor]) -> None:
        for name, total in sums.items():
            if not math.isfinite(float(total)):
                raise DivergedError(f"the loss term {name!r} is not finite in epoch {epoch + 1}")
        if not math.isfinite(float(loss_sum)):
            raise DivergedError(
                f"the weighted loss is not finite in epoch {epoch + 1}, but every term is: "
                f"the weights of strategy {self.strategy.name!r} are not finite"
            )

    def _count(self, forward: int = 0, backward: int = 0) -> None:
        self.progress.cost.student_forward += forward
        self.progress.cost.student_backward += backward

    def _finish_cost(self) -> None:
        cost = self.progress.cost
        passes = torch.tensor([cost.student_forward, cost.student_backward], device=self.device)
        self.ranks.sum_([passes])
        cost.student_forward, cost.student_backward = (int(p) for p in passes)
        cost.device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        cost.precision = self.precision

    def _save(self, directory: Path) -> None:
        save_checkpoint(directory, self.model, self.optimizer, self.strategy, self.generator, self.progress)

    def _load(self, directory: Path) -> None:
        self.progress = load_checkpoint(directory, self.model, self.optimizer, self.strategy, self.generator)


def steps_per_epoch(rows: int, batch_size: int) -> int:
    return -(-rows // batch_size)


def _teacher_right(context: Context) -> Tensor | None:
    if context.teacher_logits.shape[0] == 0:
        return None
    return context.teacher_logits.softmax(-1).mean(0).argmax(-1) == context.labels


def _adamw(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    decayed = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)
