"""One strategy in transformers' `Trainer`. A file of its own: nobody needs `accelerate` who does not use it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from harness.data.labelled_rows import LabelledRows
from harness.library.loss import StrategyLoss
from strategies import resolve

STATE_FILE = "strategy.pt"
"""The strategy's state in a checkpoint's folder. Read with `weights_only`: it can hold no code."""


class StrategyTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped
    """`Trainer` whose training loss is weighed by a strategy; all else, evaluation included, is the `Trainer`'s own.

    Rows of `train_dataset` have the column `id`, which data collators hand on and models never get. `strategy_loss`, from the
    first step on, has the weights and terms of the latest batch. Checkpoints hold the strategy's state.
    """

    loss_is_scaled_for_ga = False
    """The loss is a mean over the batch."""

    def __init__(
        self,
        *args: Any,
        strategy: str,
        train_rows: LabelledRows,
        meta: LabelledRows | None = None,
        settings: Mapping[str, Any] | None = None,
        temperature: float = 2.0,
        meta_batch_size: int = 32,
        micro_batches: int = 1,
        strategy_seed: int | None = None,
        meta_order_seed: int | None = None,
        **of_trainer: Any,
    ) -> None:
        """`strategy` to `micro_batches`: as of `StrategyLoss`; the seeds are the `Trainer`'s where not given.

        Raises ValueError for a strategy that cannot run so, and for arguments of the `Trainer` that would change its loss.
        """
        super().__init__(*args, **of_trainer)
        _refuse(self.args, strategy, settings, of_trainer, self.accelerator.mixed_precision)
        self.model_accepts_loss_kwargs = False  # transformers before 5.20 reads this in place of `loss_is_scaled_for_ga`
        self.strategy_loss: StrategyLoss | None = None
        self._strategy = strategy
        self._options: dict[str, Any] = {
            "train_rows": train_rows,
            "meta": meta,
            "settings": settings,
            "temperature": temperature,
            "meta_batch_size": meta_batch_size,
            "micro_batches": micro_batches,
            "clip_norm": self.args.max_grad_norm or None,
            "precision": "bf16" if self.accelerator.mixed_precision == "bf16" else "fp32",
            "seed": self.args.seed if strategy_seed is None else strategy_seed,
            "meta_order_seed": self.args.seed if meta_order_seed is None else meta_order_seed,
        }
        self._resume_from: Path | None = None
        StrategyLoss(strategy, self.model, total_steps=2, epochs=2, **self._options | {"optimizer": _AnyAdam(self.model)})
        self.add_callback(_Steps(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **more: Any) -> Any:
        """As `Trainer.train`. Raises ValueError for a checkpoint without the strategy's state."""
        self.strategy_loss = None
        found = get_last_checkpoint(self.args.output_dir) if resume_from_checkpoint is True else resume_from_checkpoint
        self._resume_from = Path(found) if found else None
        if self._resume_from is not None and not (self._resume_from / STATE_FILE).is_file():
            raise ValueError(f"{self._resume_from} has no {STATE_FILE}: it was not saved by a StrategyTrainer")
        return super().train(resume_from_checkpoint, *args, **more)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **more: Any) -> Any:
        given = {name: value for name, value in inputs.items() if name != "id"}
        if not model.training:
            return super().compute_loss(model, given, return_outputs, **more)
        if "id" not in inputs:
            raise ValueError("a training batch has no `id`: give the data set that column, and keep it in the data collator")
        labels = given.pop("labels")
        loss = self.strategy_loss = self.strategy_loss or self._made()
        while loss.epoch < int(
            (self.state.epoch or 0) + 1e-6
        ):  # a checkpoint at an epoch's last step was written before its end
            loss.end_epoch()
        rate = self.optimizer.param_groups[0]["lr"]
        value, outputs = loss.run(given, inputs["id"], labels, rate, model)
        return (value, {"loss": value, "logits": outputs.logits}) if return_outputs else value

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **more: Any) -> Any:
        return super().prediction_step(model, {name: v for name, v in inputs.items() if name != "id"}, *args, **more)

    def _set_signature_columns_if_needed(self) -> None:
        """`id` is no argument of the model's, and stays all the same."""
        super()._set_signature_columns_if_needed()
        if "id" not in self._signature_columns:
            self._signature_columns.append("id")

    def _made(self) -> StrategyLoss:
        made = StrategyLoss(
            self._strategy,
            self.accelerator.unwrap_model(self.model),
            total_steps=self.state.max_steps,
            epochs=int(self.state.num_train_epochs),
            optimizer=getattr(self.optimizer, "optimizer", self.optimizer),
            **self._options,
        )
        if self._resume_from is not None:
            made.load_state_dict(torch.load(self._resume_from / STATE_FILE, map_location="cpu", weights_only=True))
        return made


class _Steps(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    def __init__(self, trainer: StrategyTrainer) -> None:
        self._trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if (loss := self._trainer.strategy_loss) is not None:
            loss.after_step()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if (loss := self._trainer.strategy_loss) is not None:
            loss.end_epoch()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if (loss := self._trainer.strategy_loss) is not None and args.should_save:
            folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            torch.save(loss.state_dict(), folder / STATE_FILE)


def _refuse(
    args: TrainingArguments,
    strategy: str,
    settings: Mapping[str, Any] | None,
    of_trainer: Mapping[str, Any],
    precision: str = "no",
) -> None:
    """Raises ValueError for arguments with which the loss would not be the strategy's. `precision`: accelerate's, which its own
    launcher may have set.
    """
    registered = resolve(strategy)
    looks_ahead = registered.needs(registered.settings(settings)).look_ahead is not None
    sharded = [name for name in ("fsdp", "deepspeed") if getattr(args, name, None)]
    accumulates = (
        "gradient accumulation: a strategy weighs the batch that a step is taken on, and would see parts of it. Give batches "
        "as large as that and micro_batches=N, which passes them in N parts"
    )
    reasons = [
        (args.gradient_accumulation_steps > 1, accumulates),
        (args.n_gpu > 1, "several GPUs in one process (DataParallel): start with torchrun or `accelerate launch`"),
        (args.auto_find_batch_size, "auto_find_batch_size, which changes the batches in the middle: use micro_batches=N"),
        (args.label_smoothing_factor > 0, "label_smoothing_factor: the strategy's loss would not be smoothed"),
        (of_trainer.get("compute_loss_func") is not None, "compute_loss_func: the strategy computes the loss"),
        (
            looks_ahead and (args.fp16 or precision == "fp16"),
            f"fp16: {strategy!r} looks ahead, and scaled gradients would mislead it; use bf16",
        ),
        (looks_ahead and bool(sharded), f"{' and '.join(sharded)}: {strategy!r} looks ahead, with all parameters at hand"),
    ]
    for is_so, reason in reasons:
        if is_so:
            raise ValueError(f"StrategyTrainer does not go with {reason}")


class _AnyAdam(torch.optim.AdamW):
    """Stands for the optimiser that the `Trainer` makes when it starts: a strategy that cannot run is refused before."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__([p for p in model.parameters() if p.requires_grad], lr=0.0)
