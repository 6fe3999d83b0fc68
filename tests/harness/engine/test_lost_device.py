"""A CUDA error: no other trial of the process meets it, and the trial has one more try in another process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.engine import inline, ray_train
from harness.engine.ray_mailbox import News
from harness.ranks import is_broken_connection
from harness.records import ErrorRecord
from harness.store.store import Store
from harness.training.failures import classify, is_out_of_memory
from harness.watching.console import Console
from tests.harness.engine import stand_in
from tests.harness.engine.conftest import CPUS, StandInRun
from tests.harness.engine.stand_in import CUDA_ERROR, stand_in_plan, stand_in_study, stand_in_train


@pytest.fixture(scope="module", params=[0, 2])
def retries(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def lost(stand_in_run: Callable[..., StandInRun], retries: int) -> StandInRun:
    """One slot, so that one warm process would train them all."""
    labels = ["before", "lost_device", "always_lost_device", "after", "last"]
    return stand_in_run(labels, resources={"concurrent_trials": 1, "retries": retries}, search={"trials": 1})()


@pytest.mark.slow
def test_only_its_own_trial_fails(lost: StandInRun) -> None:
    ends = {r.spec.label: (r.status, r.error and r.error.kind) for r in lost.store.records()}
    fine = ("ok", None)
    assert ends == {
        "before": fine,
        "lost_device": fine,
        "always_lost_device": ("failed", "device"),
        "after": fine,
        "last": fine,
    }
    error = lost.record("always_lost_device").error
    assert error is not None
    assert error.message == CUDA_ERROR
    assert "in _behave" in error.traceback


def test_stacked_trials_that_lose_their_process_go_on_alone_uncharged(
    stand_in_run: Callable[..., StandInRun],
) -> None:
    """In the first process a CUDA error, in the second a kill; without retries."""
    labels = ["lost_device", "plain", "killed", "other"]
    run = stand_in_run(labels, resources={"stacked": 2, "cpus_per_worker": CPUS, "retries": 0}, search={"trials": 1})()
    assert {r.spec.label: r.status for r in run.store.records()} == dict.fromkeys(labels, "ok")
    retried = [event["cell"] for event in run.store.events() if event["kind"] == "trial_retried"]
    assert sorted(retried) == sorted(f"sst2/{label}/0" for label in labels)
    for label in labels:
        epochs = run.log[(run.log.label == label) & (run.log.kind == "epoch")].epoch
        assert sorted(epochs) == [0, 1, 2]  # from the checkpoint, and none twice


@pytest.mark.slow
def test_it_has_one_more_try_in_another_process_from_its_checkpoint(lost: StandInRun) -> None:
    """Whatever `retries` says."""
    log = lost.log
    for label, epochs in (("lost_device", [0, 1, 2]), ("always_lost_device", [0])):
        own = log[log.label == label]
        assert list(own[own.kind == "epoch"].epoch) == epochs
        assert list(own[own.kind == "starts"].epoch) == [0, 1]
        assert own.process.nunique() == 2
    assert lost.record("lost_device").objective == lost.record("before").objective
    failed = set(log[log.label == "always_lost_device"].process)
    assert not failed & set(log[log.label.isin(["after", "last"])].process)
    retried = [event for event in lost.store.events() if event["kind"] == "trial_retried"]
    assert len(retried) == 2
    assert all("device-side assert" in event["error"] for event in retried)


def test_the_inline_engine_ends_and_goes_on_with_a_new_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_in, "_lost_devices", [])
    plan, prepared = stand_in_plan(stand_in_study(["plain", "lost_device", "after"], search={"trials": 1}))
    store = Store(tmp_path / "store")

    def run() -> None:
        inline.run_plan(plan, prepared, store, Console(quiet=True), tmp_path, train=stand_in_train)

    with pytest.raises(inline.LostDeviceError, match=r"trial sst2/lost_device/0/0, .* CUDA error: device-side assert"):
        run()
    ends = {record.spec.label: record.error and record.error.kind for record in store.records()}
    assert ends == {"plain": None, "lost_device": "device"}  # `after` would have failed, too
    stand_in._lost_devices.clear()  # as in a new process
    run()
    assert [record.status for record in store.records()] == ["ok"] * 3


class Ranks:
    """Two ranks, of which one meets a CUDA error in the first `errors` groups."""

    errors = 0
    groups = 0

    def __init__(self, *_: Any) -> None:
        type(self).groups += 1
        self.lost_a_process = False
        self.error = None

    def start(self, config: dict[str, Any], micro_batches: int) -> None:
        lost = ray_train._Failure(ErrorRecord(kind="bug", type="RuntimeError", message="gloo/transport"), True)
        broken = ray_train._Failure(classify(RuntimeError(CUDA_ERROR)), False)
        fails = self.groups <= self.errors
        whole = [News("finished", 1, "outcome"), News("finished", 1)]
        self.news = [News("failed", 1, lost), News("failed", 1, broken), News("closed")] if fails else whole

    def read(self) -> News:
        return self.news.pop(0)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("errors", [1, 2])
def test_ranks_are_given_up_and_the_trial_has_one_more_try(
    errors: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_train, "RankGroup", Ranks)
    monkeypatch.setattr(Ranks, "errors", errors)
    monkeypatch.setattr(Ranks, "groups", 0)
    run = StandInRun(tmp_path, ["plain"], resources={"workers": 2})
    (spec,) = run.specs()
    supervisor = ray_train.Supervisor(None, tmp_path, tmp_path)
    supervisor.start({"spec": spec.model_dump_json(), "may_stop": False})
    assert supervisor.wait() == {"trial_retried": CUDA_ERROR}
    last = supervisor.wait()
    assert last["done"]
    if errors == 1:
        assert last["outcome"] == "outcome"
    else:
        assert ErrorRecord.model_validate_json(last["error"]).kind == "device"
    assert Ranks.groups == 2


def test_memory_that_nccl_lacks_is_its_rank_s_own_error() -> None:
    import torch.distributed as dist

    full = dist.DistBackendError("NCCL error: unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'")
    assert is_out_of_memory(full)  # and so not taken for a lost connection only
    assert classify(full).kind == "out_of_memory"
    aborted = dist.DistBackendError("NCCL communicator was aborted on rank 1")
    assert is_broken_connection(aborted)
    assert not is_out_of_memory(aborted)
