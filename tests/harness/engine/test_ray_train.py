"""Trials of two workers through Ray Train, with a training that pretends. Real training: test_equal_results.py."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

import psutil
import pytest

from tests.harness.engine.conftest import StandInRun

Run = Callable[..., StandInRun]


PAIRS = {"workers": 2, "concurrent_trials": 1, "retries": 1}


@pytest.fixture(scope="module")
def pairs(stand_in_run: Run) -> StandInRun:
    return stand_in_run(["plain", "other", "raises"], resources=PAIRS, search={"trials": 1})()


def test_ranks_stay_for_the_next_trial(pairs: StandInRun) -> None:
    processes = pairs.log.groupby(["label", "rank"]).process.unique()
    for rank in (0, 1):
        assert len(processes["plain", rank]) == 1
        assert processes["plain", rank] == processes["other", rank]
    assert processes["plain", 0] != processes["plain", 1]


def test_one_rank_reports_and_a_mistake_ends_only_its_trial(pairs: StandInRun) -> None:
    ends = {record.spec.label: record.status for record in pairs.store.records()}
    assert ends == {"plain": "ok", "other": "ok", "raises": "failed"}
    error = pairs.record("raises").error
    assert error is not None
    assert (error.kind, error.type) == ("bug", "KeyError")
    assert "in _behave" in error.traceback


@pytest.mark.slow
def test_a_lost_rank_costs_no_more_than_an_epoch(stand_in_run: Run) -> None:
    """`after` starts the ranks in which the killed one goes on."""
    run = stand_in_run(["plain", "killed_rank", "after"], resources=PAIRS, search={"trials": 1})()
    killed = run.log[run.log.label == "killed_rank"]
    assert list(killed[(killed["rank"] == 1) & (killed.kind == "starts")].epoch.sort_values()) in ([0, 1], [0, 2], [0, 3])
    assert run.record("killed_rank").objective == run.record("plain").objective
    assert run.record("after").status == "ok"


def test_no_watcher_holds_up_the_end_of_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    from harness.engine.ray_trainer import Trainer

    other = object()
    monkeypatch.setattr(TorchTrainer, "_create_default_callbacks", lambda self: [other, PlacementGroupCleanerCallback()])
    assert Trainer.__new__(Trainer)._create_default_callbacks() == [other]


@pytest.mark.slow
def test_a_damaged_checkpoint_is_said_and_costs_no_retry(stand_in_run: Run) -> None:
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
def test_a_killed_supervisor_takes_its_ranks_along_and_the_trial_goes_on(stand_in_run: Run) -> None:
    """The trial wants the whole cluster: it can only go on if the killed one's resources come back."""
    resources = {"workers": 2, "cpus_per_worker": 2, "retries": 1}
    run = stand_in_run(["slow"], resources=resources, search={"trials": 1}, training={"epochs": 8})

    def kill_supervisor() -> None:
        while not ((run.cache / "log").exists() and (run.log.epoch == 3).any()):
            time.sleep(0.1)
        for process in psutil.Process().children(recursive=True):  # of this test's cluster
            if process.cmdline()[:1] and re.match("ray::.*Trainable.train", process.cmdline()[0]):
                process.kill()

    killer = threading.Thread(target=kill_supervisor, daemon=True)
    killer.start()
    run()
    starts = run.log[(run.log["rank"] == 0) & (run.log.kind == "starts")]
    assert run.record("slow").status == "ok"
    assert list(starts.epoch) in ([0, 3], [0, 4])
