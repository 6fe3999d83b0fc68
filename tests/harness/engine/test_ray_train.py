"""Trials of two workers. What the function of such a trial does is tested with ranks that are pretended; Ray Train itself with
a training that pretends. Real training: test_equal_results.py.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.train import WorkerGroupError

from harness.engine import ray_train
from harness.engine.ray_train import Failure, GroupLostError, own_error, run_distributed_trial
from harness.records import ErrorRecord
from harness.training.checkpoint import FILE, CheckpointError
from harness.training.failures import classify
from harness.training.out_of_memory import OutOfMemoryError
from tests.harness.engine.conftest import StandInRun
from tests.harness.engine.stand_in import CUDA_ERROR

Run = Callable[..., StandInRun]
FULL = classify(OutOfMemoryError("CUDA out of memory"))
BROKEN = classify(RuntimeError(CUDA_ERROR))
DAMAGED = classify(CheckpointError("cannot be read"))
BUG = classify(KeyError("a mistake"))
COLLATERAL = Failure(ErrorRecord(kind="bug", type="RuntimeError", message="gloo/transport"), True)


class Ranks:
    """In the place of Ray Train: each run of the ranks ends as the next of `ends`."""

    def __init__(self, *ends: Any) -> None:
        self.ends: Iterator[Any] = iter(ends)
        self.micro_batches: list[int] = []
        self.reported: list[dict[str, Any]] = []
        self.checkpoints: list[bool] = []

    def __call__(self, spec: Any, config: dict[str, Any], *_: Any) -> Any:
        assert config["student_folder"] == "student"
        self.micro_batches.append(config["micro_batches"])
        self.checkpoints.append(Path(config["checkpoint"], FILE).exists())
        return next(self.ends)


def run_trial(ranks: Ranks, folder: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int = 12) -> Ranks:
    monkeypatch.setattr(ray_train, "train_on_ranks", ranks)
    monkeypatch.setattr(ray_train.tune, "report", ranks.reported.append)
    (spec,) = StandInRun(folder, ["plain"], resources={"workers": 2}, training={"batch_size": batch_size}).specs()
    (folder / FILE).touch()
    config = {"spec": spec.model_dump_json(), "checkpoint": str(folder), "student_folder": "student", "may_stop": False}
    run_distributed_trial(config, None, folder, folder)
    return ranks


def test_after_a_rank_ran_out_of_memory_it_goes_on_in_smaller_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = run_trial(Ranks(FULL, FULL, "outcome"), tmp_path, monkeypatch)
    assert ranks.reported == [{"out_of_memory": "CUDA out of memory"}] * 2 + [{"outcome": "outcome"}]
    assert ranks.micro_batches == [1, 2, 4]
    assert ranks.checkpoints == [True] * 3


def test_single_samples_that_do_not_fit_are_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = run_trial(Ranks(*[FULL] * 4), tmp_path, monkeypatch)
    assert ranks.micro_batches == [1, 2, 4, 6]
    assert ErrorRecord.model_validate_json(ranks.reported[-1]["error"]).kind == "out_of_memory"


def test_after_a_cuda_error_there_are_new_processes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_trial(Ranks(BROKEN, "outcome"), tmp_path, monkeypatch).reported == [
        {"trial_retried": CUDA_ERROR},
        {"outcome": "outcome"},
    ]
    retried, last = run_trial(Ranks(BROKEN, BROKEN), tmp_path, monkeypatch).reported
    assert retried == {"trial_retried": CUDA_ERROR}
    assert ErrorRecord.model_validate_json(last["error"]).kind == "device"


def test_a_damaged_checkpoint_is_said_and_the_trial_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = run_trial(Ranks(DAMAGED, "outcome"), tmp_path, monkeypatch)
    assert ranks.reported == [{"checkpoint_damaged": "cannot be read"}, {"outcome": "outcome"}]
    assert ranks.checkpoints == [True, False]


def test_a_mistake_is_the_trials_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (said,) = run_trial(Ranks(BUG), tmp_path, monkeypatch).reported
    assert ErrorRecord.model_validate_json(said["error"]) == BUG


def test_of_all_errors_the_first_own_one_counts() -> None:
    raised = WorkerGroupError("two ranks failed", {0: RuntimeError("gloo/transport"), 1: KeyError("a mistake")})
    assert own_error(raised, [COLLATERAL, Failure(BUG, False), Failure(FULL, False)]) == BUG
    gone = WorkerGroupError("a rank died", {0: KeyError("a mistake"), 1: ray.exceptions.ActorDiedError()})
    for error, failures in ((raised, [COLLATERAL]), (raised, []), (gone, [Failure(BUG, False)])):
        with pytest.raises(GroupLostError, match="the workers of the trial were lost: "):
            own_error(error, failures)
    with pytest.raises(GroupLostError, match="OSError: stale handle"):
        own_error(raised, [Failure(classify(OSError("stale handle")), False)])


def test_no_watcher_holds_up_the_end_of_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    other = object()
    monkeypatch.setattr(TorchTrainer, "_create_default_callbacks", lambda self: [other, PlacementGroupCleanerCallback()])
    trainer = ray_train.Trainer
    assert trainer.__new__(trainer)._create_default_callbacks() == [other]


def test_a_lost_rank_costs_no_more_than_an_epoch(stand_in_run: Run) -> None:
    run = stand_in_run(["killed_rank"], resources={"workers": 2, "retries": 1}, search={"trials": 1})()
    ranks = dict(iter(run.log[run.log.kind == "starts"].groupby("rank")))
    for notes in ranks.values():
        assert list(notes.epoch) in ([0, 1], [0, 2], [0, 3])
        assert notes.process.nunique() == 2
    assert not set(ranks[0].process) & set(ranks[1].process)
    record = run.record("killed_rank")
    assert record.status == "ok"
    assert record.objective == pytest.approx(record.spec.training.epochs / record.spec.training.temperature)
    events = run.store.events()
    assert [event["epoch"] for event in events if event["kind"] == "epoch"] == [1, 2, 3]
    assert [event["kind"] for event in events if event["kind"] != "epoch"] == [
        "slots",
        "trial_started",
        "trial_retried",
        "trial_finished",
    ]


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_no_retry(stand_in_run: Run) -> None:
    run = stand_in_run(["plain"], resources={"workers": 2, "retries": 0}, search={"trials": 1})
    (spec,) = run.specs()
    damaged = run.store.path / "running" / spec.key
    damaged.mkdir(parents=True)
    (damaged / "training.ckpt").write_bytes(b"damaged")
    run()
    assert run.record("plain").status == "ok"
    kinds = [event["kind"] for event in run.store.events()]
    assert kinds == ["slots", "trial_started", "checkpoint_damaged", "epoch", "epoch", "epoch", "trial_finished"]


@pytest.mark.slow
def test_what_a_killed_trial_reserved_is_given_back_and_it_goes_on(stand_in_run: Run) -> None:
    """The trial wants the whole cluster: it can only go on if the killed one's resources come back."""
    resources = {"workers": 2, "cpus_per_worker": 2, "retries": 1}
    run = stand_in_run(["slow"], resources=resources, search={"trials": 1}, training={"epochs": 8})

    def kill_the_trial() -> None:
        while not ((run.cache / "log").exists() and (run.log.epoch == 3).any()):
            time.sleep(0.1)
        for process in psutil.Process().children(recursive=True):  # of this test's cluster
            if process.cmdline()[:1] and re.match("ray::.*Func", process.cmdline()[0]):
                process.kill()

    killer = threading.Thread(target=kill_the_trial, daemon=True)
    killer.start()
    run()
    starts = run.log[(run.log["rank"] == 0) & (run.log.kind == "starts")]
    assert run.record("slow").status == "ok"
    assert list(starts.epoch) in ([0, 3], [0, 4], [0, 5])
