"""`StrategyTrainer`: transformers' Trainer with the harness's numbers, whose checkpoints hold the strategy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainingArguments

from harness.library import StrategyTrainer
from harness.library.trainer import STATE_FILE
from harness.look_ahead.look_ahead import LookAhead
from tests.harness.library.beside import Beside, Step, assert_same, spec_of, step_of


class Noting(TrainerCallback):
    """Every step, before the strategy hears of it; stops after `last` of them."""

    def __init__(self, last: int | None = None) -> None:
        self.steps: list[Step] = []
        self.last = last
        self.trainer: Any = None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.steps.append(step_of(self.trainer.strategy_loss.last))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = self.last is not None and state.global_step >= self.last


def arguments(beside: Beside, folder: Path, **changes: Any) -> TrainingArguments:
    training = beside.spec.training
    given: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": training.epochs,
        "per_device_train_batch_size": training.batch_size,
        "learning_rate": training.learning_rate,
        "max_grad_norm": training.clip_norm,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return TrainingArguments(**{**given, **changes})


def trainer(beside: Beside, folder: Path, noting: Noting, cls: Any = StrategyTrainer, more: Any = None, **changes: Any) -> Any:
    made = cls(
        model=beside.model,
        args=arguments(beside, folder, **changes),
        train_dataset=beside.data,
        data_collator=beside.collate,
        optimizers=(beside.optimizer, beside.scheduler),
        callbacks=[noting],
        strategy=beside.spec.strategy,
        **{**beside.options, "strategy_seed": beside.spec.seeds.strategy, **(more or {})},
    )
    noting.trainer = made
    return made


@pytest.mark.parametrize(("strategy", "teachers"), [("rw_kd", 1), ("rl_kd", 2)])
def test_its_steps_are_the_harness_s_own(strategy: str, teachers: int, tmp_path: Path) -> None:
    beside = Beside(spec_of(strategy, tmp_path, teachers), tmp_path)

    class InTheHarnessOrder(StrategyTrainer):
        def get_train_dataloader(self) -> DataLoader[Any]:
            return beside.loader()

        def compute_loss(self, model: Any, inputs: Any, *given: Any, **more: Any) -> Any:
            per_epoch = beside.total_steps // beside.epochs
            if self.state.global_step % per_epoch == 0:
                beside.seed_dropout(self.state.global_step // per_epoch)
            return super().compute_loss(model, inputs, *given, **more)

    noting = Noting()
    trainer(beside, tmp_path / "out", noting, InTheHarnessOrder).train()
    assert_same(noting.steps, beside.of_harness())


def test_it_goes_on_from_a_checkpoint_with_the_strategy_s_state(tmp_path: Path) -> None:
    whole = Noting()
    beside = Beside(spec_of("dwa", tmp_path, epochs=4), tmp_path)  # weighs by the terms' means of the two epochs before
    folder = tmp_path / "out"
    trainer(beside, folder, whole, save_strategy="steps", save_steps=3).train()
    per_epoch = beside.total_steps // beside.epochs
    assert per_epoch % 3 == 0
    for step in (
        3 * per_epoch - 3,
        2 * per_epoch,
    ):  # within an epoch, and at its last step, before the strategy heard of its end
        rest = Noting()
        again = Beside(beside.spec, tmp_path)
        made = trainer(again, tmp_path / f"from{step}", rest)
        made.train(resume_from_checkpoint=str(folder / f"checkpoint-{step}"))
        assert_same(rest.steps, whole.steps[step:])
        assert made.strategy_loss.epoch == beside.epochs
    spread = {round(float(step["weights"]["kd"][0]), 5) for step in whole.steps}
    assert len(spread) > 1  # the state that was lost or kept shows in the weights
    (folder / "checkpoint-3" / STATE_FILE).unlink()
    with pytest.raises(ValueError, match="was not saved by a StrategyTrainer"):
        made.train(resume_from_checkpoint=str(folder / "checkpoint-3"))


def test_it_evaluates_and_predicts_as_any_trainer(tmp_path: Path) -> None:
    beside = Beside(spec_of("wsl", tmp_path), tmp_path)
    made = trainer(beside, tmp_path / "out", Noting())
    metrics = made.evaluate(beside.data[:20])
    found = made.predict(beside.data[:20])
    labels = torch.tensor([row["labels"] for row in beside.data[:20]])
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(found.predictions), labels)
    assert metrics["eval_loss"] == pytest.approx(float(expected), rel=1e-3)


def test_a_data_set_s_other_columns_go_and_the_id_stays(tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import DataCollatorWithPadding

    beside = Beside(spec_of("wsl", tmp_path), tmp_path)
    noting = Noting(last=1)
    made = trainer(beside, tmp_path / "out", noting)
    made.train_dataset = Dataset.from_list([{**row, "text": "no tensor can be made of this"} for row in beside.data])
    made.data_collator = DataCollatorWithPadding(beside.tokenizer)
    made.train()
    assert set(noting.steps[0]["ids"].tolist()) < set(beside.train_rows.encoded.ids.tolist())


def test_a_look_ahead_in_bf16_passes_through_the_student_without_accelerate_s_autocast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = Beside(spec_of("rw_kd", tmp_path), tmp_path)
    forwards = []
    influence = LookAhead.influence

    def looking(self: LookAhead, *given: Any, **more: Any) -> Any:
        forwards.append(self.model.__dict__["forward"])
        return influence(self, *given, **more)

    monkeypatch.setattr(LookAhead, "influence", looking)
    noting = Noting(last=2)
    trainer(beside, tmp_path / "out", noting, bf16=True).train()
    assert forwards
    assert all(forward == beside.model._original_forward for forward in forwards)
    assert beside.model.__dict__["forward"] != beside.model._original_forward  # the training's own passes keep it
    assert all(torch.isfinite(step["loss"]) for step in noting.steps)


@pytest.mark.parametrize(
    ("strategy", "changes", "said"),
    [
        ("wsl", {"gradient_accumulation_steps": 4}, "micro_batches=N"),
        ("wsl", {"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
        ("rw_kd", {"fp16": True}, "fp16: 'rw_kd' looks ahead"),
        ("rw_kd", {"fsdp": "full_shard"}, "fsdp: 'rw_kd' looks ahead"),
        ("rw_kd", {"deepspeed": {"zero_optimization": {"stage": 3}}}, "deepspeed: 'rw_kd' looks ahead"),
    ],
)
def test_what_would_change_the_loss_is_refused(strategy: str, changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    from harness.library.trainer import _refuse

    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    for name, value in changes.items():
        setattr(args, name, value)  # as parsed where there is such hardware
    with pytest.raises(ValueError, match=said):
        _refuse(args, strategy, None, {})


def test_a_trainer_that_cannot_run_says_so_before_it_starts(tmp_path: Path) -> None:
    beside = Beside(spec_of("rw_kd", tmp_path), tmp_path)
    with pytest.raises(ValueError, match="give `meta="):
        trainer(beside, tmp_path / "out", Noting(), more={"meta": None})
    with pytest.raises(ValueError, match="micro_batches=N"):
        trainer(beside, tmp_path / "out", Noting(), gradient_accumulation_steps=2)
    made = trainer(beside, tmp_path / "out", Noting())
    whole = made.data_collator
    made.data_collator = lambda rows: {name: tensor for name, tensor in whole(rows).items() if name != "id"}
    with pytest.raises(ValueError, match="a training batch has no `id`"):
        made.train()
