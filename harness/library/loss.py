"""The loss of one strategy, for a training loop that the harness does not own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from harness.data.batch import Batch
from harness.data.batches import MetaBatches
from harness.data.labelled_rows import LabelledRows
from harness.library.made import make_strategy
from harness.models.build import Outputs, run_batch
from harness.models.evaluate import autocast
from harness.models.student_pass import in_micro_batches
from harness.ranks import ProcessGroup, Ranks, Single, shares
from harness.training.weighting import Moment, WeightedLoss, Weighting

ACCUMULATION = (
    "there was a loss before, and no `after_step` since. Call it after each optimiser step. To accumulate gradients, give "
    "micro_batches=N with batches N times as large instead: a strategy weighs the batch that a step is taken on"
)


class StrategyLoss:
    """L = mean_i sum_m weight[m, i] * term[m, i] over the samples i of a batch and the loss terms m; the strategy weighs.

    One step:

        with loss.forward_pass(learning_rate):
            logits = model(**inputs).logits
        loss(logits, inputs, ids, labels).backward()
        optimizer.step()
        loss.after_step()

    and `loss.end_epoch()` after each epoch. `run` is the first three lines for any strategy: also for those that want more of
    the student than logits. After each loss, `last.weights` and `last.terms` hold every weight and (unweighted) term.
    """

    last: WeightedLoss | None = None
    """Of the latest batch: loss, terms and weights by name, each [batch] or [teachers, batch], and the strategy's context."""

    def __init__(
        self,
        strategy: str,
        model: nn.Module,
        train_rows: LabelledRows,
        *,
        total_steps: int,
        epochs: int = 1,
        meta: LabelledRows | None = None,
        settings: Mapping[str, Any] | None = None,
        temperature: float = 2.0,
        meta_batch_size: int = 32,
        optimizer: torch.optim.Optimizer | None = None,
        clip_norm: float | None = None,
        precision: Literal["fp32", "bf16"] = "fp32",
        micro_batches: int = 1,
        seed: int = 0,
        meta_order_seed: int = 0,
    ) -> None:
        """A strategy that has not seen any batch.

        strategy         a registered name, wrappers included: `rw_kd`, `shuffled(rw_kd)`
        model            the student, a transformers sequence classifier: the bare module, not wrapped for several processes
        train_rows       all rows that are trained on (`rows_from_features`)
        total_steps      optimiser steps of the whole training, which `epochs` passes over the data make up
        meta             labelled rows beside them, for strategies that need a meta set
        settings         of the strategy, where they are to differ from its defaults
        meta_batch_size  rows of a look-ahead's meta batch; `meta_order_seed` orders them
        optimizer        the student's: needed where a look-ahead follows it (Adam's `precondition`, AdamW's `look_ahead`)
        clip_norm        what the whole gradient's norm is clipped to before each step, where it is: read by `look_ahead: adamw`
        precision        what the student's pass runs in: bf16 for autocast in bfloat16
        micro_batches    pass a batch through the student in so many parts (`run`, look-aheads), for want of memory
        seed             of the strategy's own parameters and draws

        Raises ValueError for a strategy that is unknown or cannot run with these settings, rows and precision.
        """
        made = make_strategy(strategy, model, train_rows, meta, settings, total_steps, epochs, temperature, precision, seed)
        self.strategy = made.strategy
        self.terms = made.terms
        self.total_steps, self.epochs, self.micro_batches = total_steps, epochs, micro_batches
        self.train_rows = train_rows
        self.precision = precision
        self.ranks: Ranks = ProcessGroup() if torch.distributed.is_initialized() else Single()
        self.step = 0
        self.epoch = 0
        self.passes = {"forward": 0, "backward": 0}
        """Samples that the strategy passed through the student, beside the training's own passes."""
        meta = meta if made.needs.needs_meta_set else None
        self.weighting = Weighting(
            model,
            self.strategy,
            made.needs,
            train_rows,
            meta,
            self.ranks,
            self._count,
            temperature=temperature,
            meta_batches=None if meta is None else MetaBatches(meta.encoded.lengths, meta_batch_size, meta_order_seed),
            precision=precision,
            optimizer=optimizer,
            clip_norm=clip_norm,
            terms=self.terms,
        )
        for student in self.weighting.students:
            student.micro_batches = micro_batches
        self._generator = torch.Generator().manual_seed(seed)
        self._row_of = {int(i): row for row, i in enumerate(train_rows.encoded.ids)}
        self._moment: Moment | None = None
        self._sums: dict[str, float] = {}
        self._rows = 0

    def forward_pass(self, learning_rate: float) -> AbstractContextManager[None]:
        """Around the student's pass on the batch of the next loss. `learning_rate`: of the step that follows."""
        if self.last is not None and self._moment is not None:
            raise ValueError(ACCUMULATION)
        if self.step >= self.total_steps:
            raise ValueError(f"step {self.step + 1} of a training that was said to have total_steps={self.total_steps}")
        self.last = None
        self._moment = Moment(self.epoch, self.step, self.step / max(1, self.total_steps - 1), learning_rate)
        with plain_forward(self.weighting.model):
            return self.weighting.forward_pass(self._moment)

    def __call__(
        self,
        logits: Tensor,
        inputs: Mapping[str, Tensor],
        ids: Tensor,
        labels: Tensor,
        *,
        features: Tensor | None = None,
    ) -> Tensor:
        """The batch's loss, a scalar with its graph. On several processes: so that DDP's mean over them is the global mean.

        logits    [batch, classes] with their graph
        inputs    what the student got, each [batch, length]
        ids       [batch] int64, of `train_rows`; `labels` [batch] int64
        features  [batch, hidden]: the student's pooled vector, for strategies that look at it (`run` gives it)

        Raises ValueError for an id that is none of the training rows, a call outside of the order above, and processes with
        shares of the batch that are not as equal as can be.
        """
        return self._loss(self._batch(inputs, ids, labels), Outputs(logits, features))

    def run(
        self,
        inputs: Mapping[str, Tensor],
        ids: Tensor,
        labels: Tensor,
        learning_rate: float,
        model: nn.Module | None = None,
    ) -> tuple[Tensor, Outputs]:
        """The student's pass as the strategy wants it, and the batch's loss.

        In the precision given at the start, unless `model`, which stands for the student and may be wrapped for several
        processes, sees to that itself. Raises ValueError as a call does.
        """
        batch, wanted = self._batch(inputs, ids, labels), self.terms.needs
        if model is not None and self.micro_batches > 1 and self.ranks.world > 1:
            raise ValueError("micro_batches with several processes: their wrapper takes one pass a step; use smaller batches")

        def run(part: Batch) -> Outputs:
            return run_batch(model or self.weighting.model, part, wanted.student_features, wanted.student_layers)

        precision = self.precision if model is None else "fp32"
        with self.forward_pass(learning_rate), autocast(_device(inputs), precision):
            outputs = in_micro_batches(run, batch, self.micro_batches)
        return self._loss(batch, outputs), outputs

    def after_step(self) -> None:
        """After the optimiser's step."""
        if self.last is None:
            raise ValueError("after_step without a loss before it")
        self.strategy.after_step(self.last.context)
        self.step += 1
        self._moment = None

    def end_epoch(self) -> None:
        """After the last step of an epoch."""
        if self._rows == 0:
            raise ValueError(f"epoch {self.epoch + 1} has had no batch")
        self.strategy.end_epoch(self.epoch, {name: total / self._rows for name, total in self._sums.items()})
        self.epoch += 1
        self._sums, self._rows = {}, 0

    def state_dict(self) -> dict[str, Any]:
        """All that goes on from here, between two steps: tensors and plain values only."""
        return {
            "name": self.strategy.name,
            "strategy": self.strategy.state_dict(),
            "generator": self._generator.get_state(),
            "terms": dict(self.terms.state_dict()),
            "step": self.step,
            "epoch": self.epoch,
            "sums": dict(self._sums),
            "rows": self._rows,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`. Raises ValueError for another strategy's state."""
        if state["name"] != self.strategy.name:
            raise ValueError(f"the state is of strategy {state['name']!r}, and this is {self.strategy.name!r}")
        self.strategy.load_state_dict(state["strategy"])
        self.terms.load_state_dict(state["terms"])
        self._generator.set_state(state["generator"].cpu())
        self.step, self.epoch = state["step"], state["epoch"]
        self._sums, self._rows = dict(state["sums"]), state["rows"]

    def _batch(self, inputs: Mapping[str, Tensor], ids: Tensor, labels: Tensor) -> Batch:
        try:
            rows = np.array([self._row_of[int(i)] for i in ids])
        except KeyError as error:
            raise ValueError(f"row id {error.args[0]} is none of the training rows") from None
        counts = self.ranks.gather_rows(torch.tensor([len(ids)], device=ids.device)).tolist()
        total = sum(counts)
        if counts != shares(total, len(counts)):
            raise ValueError(
                f"the processes have {counts} rows of one batch; give all the same number (drop or fill up the last)"
            )
        return Batch(
            ids=ids,
            labels=labels,
            inputs=dict(inputs),
            teacher_logits=torch.from_numpy(self.train_rows.teacher_logits[:, rows]).to(ids.device),
            teacher_features=None,
            global_rows=total,
            epoch=self.epoch,
        )

    def _loss(self, batch: Batch, outputs: Outputs) -> Tensor:
        if self._moment is None:
            raise ValueError("a loss without a pass in `forward_pass` before it")
        if self.last is not None:
            raise ValueError(ACCUMULATION)
        wanted = self.terms.needs
        if (wanted.student_features and outputs.features is None) or (wanted.student_layers and outputs.layers is None):
            raise ValueError(f"strategy {self.strategy.name!r} looks at more of the student than its logits; use `run`")
        low = outputs.logits.dtype in (torch.bfloat16, torch.float16)
        if low and self.precision == "fp32" and self.weighting.needs.look_ahead is not None:
            raise ValueError(
                f"the student's logits are in {outputs.logits.dtype}, and the look-ahead passes it in fp32: rounding would "
                "outweigh the difference. Give precision='bf16', or pass the student in fp32"
            )
        outputs = outputs._replace(logits=outputs.logits.float())
        with plain_forward(self.weighting.model):
            found = self.weighting.loss(self._moment, np.arange(batch.global_rows), batch, outputs, self._generator)
        self.last = found
        for name, values in found.terms.items():
            each = values.shape[0] if values.dim() == 2 else 1
            self._sums[name] = self._sums.get(name, 0.0) + float(values.sum()) / each
        self._rows += batch.global_rows
        return found.loss * self.ranks.world

    def _count(self, forward: int = 0, backward: int = 0) -> None:
        self.passes["forward"] += forward
        self.passes["backward"] += backward


def _device(inputs: Mapping[str, Tensor]) -> torch.device:
    """Where a batch lies, and its logits will."""
    return next(iter(inputs.values())).device


@contextmanager
def plain_forward(model: nn.Module) -> Iterator[None]:
    """Without accelerate's autocast around `model.forward`: the passes of a strategy set their own precision.

    Under it, a look-ahead's finite difference would be one of rounded values. accelerate's own way to take it off
    (`unwrap_model(keep_fp32_wrapper=False)`) would take it off the training's passes, too, for good.
    """
    wrapped, original = (model.__dict__.get(name) for name in ("forward", "_original_forward"))
    if wrapped is None or original is None:
        yield
        return
    model.forward = original
    try:
        yield
    finally:
        model.forward = wrapped
