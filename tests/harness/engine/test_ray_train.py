"""Trials of two workers through Ray Train, with a training that pretends. Real training: test_equal_results.py."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist

from tests.harness.engine.conftest import StandInRun
from tests.harness.tiny import default_specs, tiny_study

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


class Ended(Exception):
    """The rank's work is done, as far as this test goes."""


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("gpus", [0, 1])
def test_a_rank_has_its_own_gpu_held_to_its_share_or_none(gpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is the only rank of a real process group, with a real mailbox; Ray Train gives it the second GPU, or none.
    With none it trains to the end, and no GPU is asked for anything.
    """
    import ray  # not before there is a cluster, which is to be what imports it first

    from harness.engine.ray_mailbox import ORDER, Order, start_mailbox
    from harness.engine.ray_train import serve_trials
    from harness.engine.ray_trial import default_train

    (spec,) = default_specs(tiny_study(resources={"engine": "ray"}, training={"epochs": 1, "batch_size": 32}), tmp_path)
    spec = spec.model_copy(update={"resources": spec.resources.model_copy(update={"gpus_per_worker": gpus})})
    asked: list[Any] = []

    def ask(*given: Any) -> None:
        asked.extend(given)
        if given == (1.0,):
            raise Ended

    monkeypatch.setattr("ray.train.torch.get_device", lambda: torch.device("cuda:1" if gpus else "cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("set_device", "set_per_process_memory_fraction", "_lazy_init", "get_device_name", "is_bf16_supported"):
        monkeypatch.setattr(torch.cuda, name, ask)
    devices: list[str] = []

    def train(*given: Any, **named: Any) -> None:
        devices.append(default_train()(*given, **named).record.cost.device)
        raise Ended

    mailbox = start_mailbox()
    config = {"spec": spec.model_dump_json(), "checkpoint": str(tmp_path / "trial"), "may_stop": False, "student_folder": None}
    ray.get(mailbox.tell.remote(1, ORDER, Order(config, resume=False, micro_batches=1)))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(Ended):
            serve_trials(mailbox, train, tmp_path)
    finally:
        dist.destroy_process_group()
        ray.kill(mailbox)
    assert asked == ([torch.device("cuda:1"), 1.0] if gpus else [])
    assert devices == ([] if gpus else ["cpu"])


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
