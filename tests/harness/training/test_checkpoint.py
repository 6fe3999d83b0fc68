"""When a checkpoint is written. What it holds is tested with the trainings that go on from one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.engine import inline
from harness.loss_terms.registry import FASTEST
from harness.plan.plan import make_plan, trial_spec
from harness.store.store import Store
from harness.training.checkpoint import CheckpointError, TrialCheckpoint
from harness.training.device import device_for
from harness.training.trial import train_trial
from harness.watching.console import Console
from tests.harness.engine.stand_in import stand_in_plan, stand_in_study, stand_in_train
from tests.harness.tiny import default_specs, prepared_plan, tiny_study


@pytest.mark.parametrize(
    ("seconds", "written_after"),
    [(0, [10, 20, 30, 40, 50, 60]), (15, [20, 40, 60]), (20, [20, 40, 60]), (25, [30, 60]), (100, [])],
)
def test_no_more_work_is_lost_than_was_allowed_and_one_epoch(
    seconds: float, written_after: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    state = TrialCheckpoint(Path("running"), seconds)
    written = []
    for passed in (10, 20, 30, 40, 50, 60):  # seconds at the ends of epochs
        now = 1000.0 + passed
        state.after_epoch(lambda directory, passed=passed: written.append((directory, passed)))
    assert written == [(Path("running"), passed) for passed in written_after]


@pytest.mark.parametrize(("seconds", "expected"), [(0, [1, 2, 3]), (3600, [])])
def test_short_trials_write_none(seconds: float, expected: list[int], tmp_path: Path) -> None:
    plan, prepared = stand_in_plan(stand_in_study(["plain"], search={"trials": 1}, resources={"checkpoint_seconds": seconds}))
    written = []

    def train(*given: Any, on_epoch: Any, **more: Any) -> Any:
        def noted(record: Any, write: Any) -> None:
            on_epoch(record, lambda folder: written.append(record.epoch + 1))

        return stand_in_train(*given, on_epoch=noted, **more)

    inline.run_plan(plan, prepared, Store(tmp_path), Console(quiet=True), tmp_path, train=train)
    assert written == expected


def test_checkpoints_to_be_kept_are_written_after_every_epoch() -> None:
    for keep, expected in ((False, 30.0), (True, 0.0)):
        study = stand_in_study(["plain"], keep_checkpoints=keep, resources={"checkpoint_seconds": 30})
        (cell,) = make_plan(study, Path.cwd()).cells
        assert cell.resources.checkpoint_seconds == expected


def test_a_checkpoint_of_another_precision_is_not_gone_on_from(tmp_path: Path) -> None:
    """`auto` is bf16 on a GPU and fp32 on a CPU: a trial that moved between them would be half of each."""
    (spec,) = default_specs(tiny_study(training={"epochs": 2, "batch_size": 32, "precision": "bf16"}), tmp_path)
    bf16 = train_trial(spec, tmp_path, on_epoch=lambda record, write: write(tmp_path / "checkpoint")).record
    assert bf16.cost.precision == "bf16"
    other = spec.model_copy(update={"training": spec.training.model_copy(update={"precision": "fp32"})})
    with pytest.raises(CheckpointError, match="was trained in bf16, and here it would go on in fp32"):
        train_trial(other, tmp_path, resume_from=tmp_path / "checkpoint")


def test_a_checkpoint_keeps_the_look_ahead_s_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` may mean another one on another device, or of another table: the trial is not half of each."""
    training = {"epochs": 2, "batch_size": 32, "meta_batch_size": 8, "precision": "fp32"}
    (spec,) = default_specs(tiny_study(strategies=["rw_kd"], training=training), tmp_path)
    record = train_trial(spec, tmp_path, on_epoch=lambda record, write: write(tmp_path / "checkpoint")).record
    assert record.cost.look_ahead_engine == FASTEST["cpu" if record.cost.device == "cpu" else "gpu", "fp32"][0] == "fd"
    resumed = train_trial(spec, tmp_path, resume_from=tmp_path / "checkpoint").record
    assert resumed.cost.look_ahead_engine == "fd"
    for key in FASTEST:
        monkeypatch.setitem(FASTEST, key, ("jvp", "fd"))
    with pytest.raises(CheckpointError, match="was trained in fd, and here it would go on in jvp"):
        train_trial(spec, tmp_path, resume_from=tmp_path / "checkpoint")


ON_CPU = {"engine": "inline", "gpus_per_worker": 0}


def _not_asked(*_: object) -> None:
    raise AssertionError("a GPU that was not given was asked for something")


@pytest.fixture
def machine_with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever uses it fails."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("get_device_name", "_lazy_init", "set_per_process_memory_fraction", "is_bf16_supported"):
        monkeypatch.setattr(torch.cuda, name, _not_asked)


@pytest.mark.usefixtures("machine_with_gpu")
def test_without_a_gpu_in_the_resources_teachers_and_trials_leave_it_alone(tmp_path: Path) -> None:
    study = tiny_study(resources=ON_CPU, training={"epochs": 1, "batch_size": 32})
    (spec,) = default_specs(study, tmp_path)  # makes the teacher
    record = train_trial(spec, tmp_path).record
    assert (record.cost.device, record.cost.precision) == ("cpu", "fp32")
    assert record.environment["accelerator"] == "none"


@pytest.mark.parametrize("gpus", [0.25, 1, 2])
def test_a_share_is_held_to_and_attention_does_not_plan_for_every_shape(gpus: float, monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        assert device_for(gpus).type == "cuda"
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
    assert shares == [min(1, gpus)]


class Held(Exception):
    """A process was held to a share of a GPU, which had nothing on it yet."""


def _hold(share: float) -> None:
    raise Held(share)


def test_teachers_and_trials_are_held_to_the_share_of_their_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is put on the GPU. For ranks of Ray Train: test_ray_train.py."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", _hold)
    shares = {"sst2": 0.5, "rte": 0.25, "mrpc": 1.0}
    per_task = {task: {"gpus_per_worker": share} for task, share in shares.items()}
    plan, prepared = prepared_plan(
        tiny_study(tasks=list(shares), resources={"engine": "inline", "per_task": per_task}), tmp_path
    )
    assert {task: ready.teacher_errors["teacher"].type for task, ready in prepared.items()} == dict.fromkeys(shares, "Held")
    assert {task: float(ready.teacher_errors["teacher"].message) for task, ready in prepared.items()} == shares
    for cell in plan.cells:
        with pytest.raises(Held, match=f"^{shares[cell.task.name]}$"):
            train_trial(trial_spec(plan, cell, 0, {}, prepared), tmp_path)


def test_a_gpu_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with caplog.at_level(logging.WARNING, "harness"):
        assert device_for(0.5).type == "cpu"
    assert "gpus_per_worker is 0.5, and PyTorch finds no GPU" in caplog.text
