"""The training loop of one model: plain PyTorch, on one rank or several, with or without Ray around it.

A student and a teacher are trained by the same loop; a teacher's strategy weighs cross-entropy alone.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.data.batch import Batch
from harness.data.batches import LengthBucketedBatches, MetaBatches
from harness.data.encode import Encoded
from harness.data.labelled_rows import LabelledRows
from harness.loss_terms.bound import LossTerms
from harness.loss_terms.registry import graphs_refusal
from harness.models.build import Outputs
from harness.models.evaluate import EVALUATION_BATCH, autocast, predict, resolve_precision, width_step
from harness.models.graphed_pass import WIDTH_STEP, GraphedPass
from harness.models.run import run_model
from harness.models.student_pass import logits_reach_all, passes_forward
from harness.models.used_tokens import embed_all_tokens, embed_used_tokens
from harness.ranks import Ranks, shard
from harness.records import EpochRecord, Seeds
from harness.seeds import derive_seed
from harness.study.schema import Recipe
from harness.study.tasks import compute_metrics
from harness.training.checkpoint import CheckpointError, Progress, load_checkpoint, save_checkpoint
from harness.training.failures import DivergedError
from harness.training.hooks import EpochHook, StepHook
from harness.training.out_of_memory import MicroBatching
from harness.training.weight_log import WeightLog, teacher_right
from harness.training.weighting import Moment, WeightedLoss, Weighting
from strategies.base import Needs, Strategy


class Training:
    """One model's training. `run` leaves the kept epoch's parameters in `model`.

    Until `run` ends, `model` embeds the tokens of the given rows alone (`harness.models.used_tokens`).
    """

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
        terms: LossTerms | None = None,
        micro_batches: int = 1,
        graphs: bool = False,
    ) -> None:
        """`terms`: the strategy's, which may be left out where they are all plain functions.

        `micro_batches`: pass a batch in so many parts from the start, as the whole is known not to fit into memory.
        `graphs`: pass batches as CUDA graphs where that can be, and say where not (`harness.models.graphed_pass`).
        """
        self.model = model
        self.strategy = strategy
        self.needs = needs
        self.fit = fit
        self.select = select
        self.recipe = recipe
        self.seeds = seeds
        self.metrics = metrics
        self.headline = headline
        self.ranks = ranks
        self.device = next(model.parameters()).device
        embed_used_tokens(model, _all_rows(fit, meta, select))
        self.precision = resolve_precision(recipe.precision, self.device)
        self.batches = LengthBucketedBatches(fit.encoded.lengths, recipe.batch_size, seeds.order)
        self.total_steps = recipe.epochs * steps_per_epoch(len(fit), recipe.batch_size)
        self.terms = terms or LossTerms(needs)
        self.terms.agree(ranks)
        self.optimizer = _adamw(model, recipe, self.terms)
        self.generator = torch.Generator().manual_seed(seeds.strategy)
        self.progress = Progress()
        self._forward = self._backward = 0
        self.weighting = Weighting(
            model,
            strategy,
            needs,
            fit,
            meta,
            ranks,
            self._count,
            temperature=temperature,
            meta_batches=None if meta is None else MetaBatches(meta.encoded.lengths, meta_batch_size, seeds.order),
            precision=self.precision,
            optimizer=self.optimizer,
            clip_norm=recipe.clip_norm,
            terms=self.terms,
        )
        whole = ranks.world == 1 or (not self.terms.needs.bypasses_head and logits_reach_all(model, select))
        self._wrapped = ranks.wrap(self.weighting.student, find_unused=not whole)
        self.micro_batching = MicroBatching(self.weighting.students, strategy, self.terms, self.generator, self.device)
        self.micro_batching.count = micro_batches
        self.graphed_pass = self._graphed_pass() if graphs else None

    def run(
        self, on_epoch: EpochHook | None = None, resume_from: Path | None = None, on_step: StepHook | None = None
    ) -> Progress:
        """Train to the end, from the checkpoint in `resume_from` where there is one.

        Raises DivergedError for a loss, weight or score that is not finite, and CheckpointError for a checkpoint that cannot be
        read, or was written in another precision or with another look-ahead engine: `auto` means others on another device.
        """
        if resume_from is not None:
            self._load(resume_from)
        for epoch in range(self.progress.epoch, self.recipe.epochs):
            record = self._epoch(epoch, on_step)
            if on_epoch is not None:
                self._describe_device()
                on_epoch(record, self._save)
        if self.recipe.keep == "best":
            self.model.load_state_dict(self.progress.best_parameters)
        embed_all_tokens(self.model)
        self._describe_device()
        return self.progress

    def _epoch(self, epoch: int, on_step: StepHook | None) -> EpochRecord:
        progress = self.progress
        # One seed an epoch: a run that resumes here needs no saved generator state, on any number of ranks.
        torch.manual_seed(derive_seed(self.seeds.dropout, epoch, self.ranks.rank))
        started = time.perf_counter()
        log = WeightLog(self.fit.encoded.flipped)
        sums: dict[str, Tensor] = {}
        loss_sum = torch.zeros((), device=self.device)
        steps: list[tuple[Tensor, dict[str, Tensor]]] = []
        for rows in self.batches.epoch(epoch):
            loss, terms = self._step(epoch, rows, log)
            loss_sum += loss * len(rows)
            totals = {name: values.sum() / (values.shape[0] if values.dim() == 2 else 1) for name, values in terms.items()}
            sums = {name: sums.get(name, 0.0) + total for name, total in totals.items()}
            steps.append((loss, totals))
            if on_step is not None:
                on_step(progress.step, loss)
        if not all(math.isfinite(float(total)) for total in (loss_sum, *sums.values())):
            raise DivergedError(self._what_is_not_finite(epoch, steps))
        self._add_cost(time.perf_counter() - started)
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
            micro_batches=self.micro_batching.count,
        )
        progress.records.append(record)
        return record

    def train_on_longest(self, rows: int, steps: int) -> float:
        """So many steps on a batch of the longest training rows, and outputs for the longest selection rows: the most memory
        that the training takes. It is of no further use then. Returns the seconds of the fastest step after the first one, the
        device's work included.
        """
        longest = np.argsort(-self.fit.encoded.lengths, kind="stable")[:rows]
        seconds = []
        for _ in range(steps):
            started = time.perf_counter()
            self._step(0, longest, WeightLog(self.fit.encoded.flipped))
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            seconds.append(time.perf_counter() - started)
        if self.graphed_pass is not None:  # each width has a graph with memory of its own
            widths = {-(-self.fit.encoded.width(own) // WIDTH_STEP): own for own in self.batches.epoch(0)}
            for own in widths.values():
                self._step(0, own, WeightLog(self.fit.encoded.flipped))
        longest = np.argsort(-self.select.lengths, kind="stable")[:EVALUATION_BATCH]
        predict(self.model, self.select, longest, self.precision)
        return min(seconds[1:] or seconds)

    def _step(self, epoch: int, rows: np.ndarray, log: WeightLog) -> tuple[Tensor, dict[str, Tensor]]:
        """One optimiser step on the global batch `rows`; returns its loss and the unweighted terms of all samples."""
        progress = self.progress
        mine = shard(rows, self.ranks.rank, self.ranks.world)
        batch = self.fit.batch(mine, len(rows), self.device, epoch, width_step(self.device, self.precision))
        if self.ranks.world == 1:
            weighted = self.micro_batching.run(lambda: self._gradients(epoch, rows, batch), self._clear, len(batch.ids))
        else:  # a rank cannot step back alone from what all do together: the engine starts the trial's ranks again
            weighted = self._gradients(epoch, rows, batch)
        self.terms.reduce_gradients(self.ranks, self.recipe.clip_norm)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("scale", 1.0) * self.learning_rate(progress.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        self.strategy.after_step(weighted.context)
        log.add(rows, weighted.weights, teacher_right(weighted.context))
        loss = weighted.loss if self.ranks.world == 1 else weighted.over_the_batch()
        return loss, weighted.terms

    def _gradients(self, epoch: int, rows: np.ndarray, batch: Batch) -> WeightedLoss:
        """The weighted loss of a global batch, and its gradients in the parameters."""
        wanted = self.terms.needs
        moment = self._moment(epoch)
        self._wrapped.train()
        with self.weighting.forward_pass(moment), autocast(self.device, self.precision):
            outputs: Outputs = self._wrapped(batch, wanted.student_features, wanted.student_layers)
        self._count(forward=batch.samples)
        weighted = self.weighting.loss(moment, rows, batch, outputs, self.generator)
        # DDP averages gradients over ranks; the loss is a sum over the global batch
        torch.autograd.backward(weighted.loss * self.ranks.world)
        self.ranks.check_gradients(self.model)
        self._count(forward=passes_forward(batch, self.micro_batching.count), backward=batch.samples)
        return replace(weighted, loss=weighted.loss.detach())

    def _graphed_pass(self) -> GraphedPass | None:
        refusal = graphs_refusal(self.needs, self.ranks.world, self.device.type == "cuda")
        if not refusal and self.weighting.student.run is not run_model:
            refusal = "shares its passes with others (resources.stacked)"
        if refusal:
            logging.getLogger("harness").warning("training.compile: graphs is without effect where a trial %s", refusal)
            return None
        self.weighting.student.run = GraphedPass()
        return self.weighting.student.run

    def _clear(self) -> None:
        """After a step for which there was too little memory."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.graphed_pass is not None:  # micro-batches have no use for what it holds
            self.graphed_pass.give_up("memory ran out, so graphs are given up")

    def _moment(self, epoch: int) -> Moment:
        step = self.progress.step
        return Moment(epoch, step, step / max(1, self.total_steps - 1), self.learning_rate(step))

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then linear decay to zero."""
        warmup = int(self.recipe.warmup_fraction * self.total_steps)
        if step < warmup:
            return self.recipe.learning_rate * (step + 1) / warmup
        return self.recipe.learning_rate * (self.total_steps - step) / max(1, self.total_steps - warmup)

    def _select_score(self) -> dict[str, float]:
        indices = np.arange(len(self.select.ids))
        logits = predict(self.model, self.select, shard(indices, self.ranks.rank, self.ranks.world), self.precision).logits
        predicted = self.ranks.gather_rows(logits.argmax(-1).to(self.device)).cpu().numpy()
        return compute_metrics(self.metrics, self.select.labels, predicted, logits.shape[-1])

    def _what_is_not_finite(self, epoch: int, steps: Iterable[tuple[Tensor, dict[str, Tensor]]]) -> str:
        """Said of the first step in which something is not: from the next one on everything is, whatever it came from."""
        for number, (loss, terms) in enumerate(steps, start=1):
            for name, total in terms.items():
                if not math.isfinite(float(total)):
                    return f"the loss term {name!r} is not finite in epoch {epoch + 1}, step {number}"
            if not math.isfinite(float(loss)):
                return (
                    f"the weighted loss is not finite in epoch {epoch + 1}, step {number}, but every term is: "
                    f"the weights of strategy {self.strategy.name!r} are not finite"
                )
        return f"a sum over the steps of epoch {epoch + 1} is too large for a number"

    def _count(self, forward: int = 0, backward: int = 0) -> None:
        self._forward += forward
        self._backward += backward

    def _add_cost(self, seconds: float) -> None:
        """Add the epoch's passes of all ranks, so that rank 0's checkpoint holds the whole cost."""
        passes = torch.tensor([self._forward, self._backward], device=self.device)
        self.ranks.sum_([passes])
        cost = self.progress.cost
        cost.student_forward += int(passes[0])
        cost.student_backward += int(passes[1])
        cost.train_seconds += seconds
        self._forward = self._backward = 0

    def _describe_device(self) -> None:
        cost = self.progress.cost
        cost.device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        cost.precision = self.precision
        cost.look_ahead_engine = self.weighting.look_ahead_engine
        cost.graphs = self.graphed_pass.captured if self.graphed_pass is not None else 0
        cost.stacked = self.ranks.stacked

    def _save(self, directory: Path) -> None:
        save_checkpoint(directory, self.model, self.optimizer, self.strategy, self.terms, self.generator, self.progress)

    def _load(self, directory: Path) -> None:
        self.progress = load_checkpoint(directory, self.model, self.optimizer, self.strategy, self.terms, self.generator)
        cost, engine = self.progress.cost, self.weighting.look_ahead_engine
        for before, here in ((cost.precision, self.precision), (cost.look_ahead_engine, engine)):
            if before not in ("", here):
                raise CheckpointError(
                    f"the checkpoint in {directory} was trained in {before}, and here it would go on in {here}"
                )
        known = self.progress.records[-1].micro_batches if self.progress.records else 1
        self.micro_batching.count = max(known, self.micro_batching.count)


def steps_per_epoch(rows: int, batch_size: int) -> int:
    return -(-rows // batch_size)


def _all_rows(fit: LabelledRows, meta: LabelledRows | None, select: Encoded) -> list[Encoded]:
    labelled = [fit] if meta is None else [fit, meta]
    return [select, *(encoded for rows in labelled for encoded in (rows.encoded, *rows.parts))]


def _adamw(model: nn.Module, recipe: Recipe, terms: LossTerms) -> torch.optim.AdamW:
    decayed = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW([*groups, *terms.parameter_groups()], lr=recipe.learning_rate, fused=True)
