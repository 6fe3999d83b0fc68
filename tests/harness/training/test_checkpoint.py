"""When a checkpoint is written. What it holds is tested with the trainings that go on from one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.engine import inline
from harness.plan.plan import make_plan
from harness.store.store import Store
from harness.training.checkpoint import CheckpointError, TrialCheckpoint
from harness.training.trial import train_trial
from harness.watching.console import Console
from tests.harness.engine.stand_in import stand_in_plan, stand_in_study, stand_in_train
from tests.harness.tiny import default_specs, tiny_study


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
