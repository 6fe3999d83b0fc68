"""Trials whose processes are lost, stand still or never come to be: each is tried again, and never for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.air.execution._internal.actor_manager import RayActorManager

from harness.engine.payload import pack, unpack
from harness.engine.ray_losses import LONGEST_WAIT, NODE_LOSSES, Losses
from harness.engine.ray_scheduler import RouterScheduler
from harness.engine.ray_session import RouterSearcher, RouterSession, StoreCallback
from harness.engine.ray_stalls import StallWatch
from harness.engine.router import Router
from harness.records import EpochRecord, ErrorRecord, TrialSpec
from harness.store.store import Store
from harness.watching import Watcher
from harness.watching.console import Console
from tests.harness.engine.conftest import StandInRun
from tests.harness.engine.stand_in import stand_in_plan, stand_in_study, stand_in_train

Run = Callable[..., StandInRun]


def lost(text: str = "The actor died unexpectedly before finishing this task.", kind: Any = "infrastructure") -> ErrorRecord:
    return ErrorRecord(kind=kind, type="LostTrial", message=text, traceback=text)


def waits(losses: Losses, error: ErrorRecord) -> Iterator[float]:
    while (seconds := losses.wait("key", error)) is not None:
        yield seconds


def test_tries_are_bounded_and_back_off() -> None:
    assert list(waits(Losses(3), lost())) == [1, 2, 4]
    assert max(waits(Losses(12), lost())) == LONGEST_WAIT
    assert list(waits(Losses(0), lost())) == []


def test_a_lost_node_uses_no_retry_and_is_bounded_by_another_number() -> None:
    losses = Losses(1)
    for _ in range(NODE_LOSSES):
        assert losses.wait("key", lost(), node=True) is not None
    assert losses.wait("key", lost(), node=True) is None
    assert losses.wait("key", lost()) is not None
    assert losses.wait("key", lost()) is None


def test_a_node_whose_loss_is_told_late_gives_the_retry_back() -> None:
    losses = Losses(1)
    for _ in range(5):
        assert losses.wait("key", lost()) is not None
        losses.was_a_node("key")
    assert losses.wait("key", lost()) is not None
    assert losses.wait("key", lost()) is None


def test_a_cuda_error_has_one_more_try_whatever_the_retries() -> None:
    for retries in (0, 5):
        assert len(list(waits(Losses(retries), lost("CUDA error", "device")))) == 1


def test_a_lost_trial_is_dealt_out_again_after_its_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("harness.engine.router.time", SimpleNamespace(monotonic=lambda: now[0]))
    plan, prepared = stand_in_plan(stand_in_study(["plain"], search={"trials": 1}))
    store = Store(tmp_path)
    session = RouterSession(Router(plan, plan.cells, prepared, store, Console(quiet=True)), store, False, retries=2)
    searcher = RouterSearcher(session)
    for seconds in (1, 2):
        assert isinstance(searcher.suggest("one"), dict)
        session.lost_together(session.keys.pop("one"), lost().traceback)
        now[0] += seconds - 0.5
        assert searcher.suggest("early") is None
        now[0] += 0.5
    assert isinstance(searcher.suggest("one"), dict)
    session.lost_together(session.keys.pop("one"), lost().traceback)
    assert [record.status for record in store.records()] == ["failed"]


def test_stacked_trials_whose_process_never_began_are_not_charged_and_go_on_alone(tmp_path: Path) -> None:
    """Ray ends the Tuner, and whose doing that was is not known."""
    plan, prepared = stand_in_plan(stand_in_study(["a", "b", "c"], search={"trials": 1}))
    store = Store(tmp_path)
    router = Router(plan, plan.cells, prepared, store, Console(quiet=True))
    session = RouterSession(router, store, False, stacked=2, at_once=3)
    searcher = RouterSearcher(session)
    tuners = []

    def fit() -> None:
        tuners.append([searcher.suggest(f"{len(tuners)}{name}") for name in "xyz"])
        if len(tuners) == 1:
            raise ray.exceptions.WorkerCrashedError
        for spec in [router.running(key) for keys in session.keys.values() for key in keys]:
            router.finish(*unpack(pack(stand_in_train(spec, tmp_path))))
        assert router.next() is None

    session.run(fit)
    assert {record.spec.label: record.status for record in store.records()} == {"a": "ok", "b": "ok", "c": "failed"}
    dealt = [[1 + len(config["beside"]) for config in tuner if isinstance(config, dict)] for tuner in tuners]
    assert dealt == [[2, 1], [1, 1]]


def test_a_trial_that_ends_without_an_outcome_is_lost(tmp_path: Path) -> None:
    """And not waited for."""
    plan, prepared = stand_in_plan(stand_in_study(["plain"], search={"trials": 1}))
    store = Store(tmp_path)
    session = RouterSession(Router(plan, plan.cells, prepared, store, Console(quiet=True)), store, False)
    callback = StoreCallback(session, Watcher(), StallWatch(60, Watcher(), Console(quiet=True)))
    assert isinstance(RouterSearcher(session).suggest("one"), dict)
    callback.on_trial_complete(0, [], SimpleNamespace(trial_id="one", error_file=None))
    (record,) = store.records()
    assert record.error is not None
    assert record.error.message == "it ended without an outcome"
    assert session.router.next() is None
    assert session.router.finished


def killed_for_memory(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Ray Tune's own process meets what Ray raises for an actor that was killed for memory as it started."""
    original = RayActorManager._actor_start_resolved
    left = [times]

    def resolved(*given: Any, **named: Any) -> None:
        if left[0] > 0:
            left[0] -= 1
            error = ray.exceptions.OutOfMemoryError("Task was killed due to the node running low on memory.")
            raise RuntimeError(f"Caught unexpected exception: {error}") from error
        original(*given, **named)

    monkeypatch.setattr(RayActorManager, "_actor_start_resolved", resolved)


@pytest.mark.slow
def test_an_actor_killed_for_memory_is_a_retry_of_its_trial(stand_in_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_for_memory(monkeypatch, 1)
    run = stand_in_run(["plain", "other"], resources={"concurrent_trials": 1, "retries": 1}, search={"trials": 1})()
    assert [record.status for record in run.store.records()] == ["ok", "ok"]
    (retried,) = [event for event in run.store.events() if event["kind"] == "trial_retried"]
    assert "OutOfMemoryError: Task was killed due to the node running low on memory." in retried["error"]


@pytest.mark.slow
def test_and_in_the_end_a_failed_trial_with_its_reason(stand_in_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_for_memory(monkeypatch, 2)
    run = stand_in_run(["plain"], resources={"retries": 1}, search={"trials": 1})()
    record = run.record("plain")
    assert record.status == "failed"
    assert record.error is not None
    assert (record.error.kind, "running low on memory" in record.error.message) == ("out_of_memory", True)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_trial_that_stands_still_is_ended_and_goes_on(
    stand_in_run: Run, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StallWatch, "INTERVAL", 0.5)
    resources = {"stall_minutes": 0.1 * workers, "retries": 1, "workers": workers}
    run = stand_in_run(["stopped"], resources=resources, search={"trials": 1})()
    assert run.record("stopped").status == "ok"
    events = run.store.events()
    kinds = [event["kind"] for event in events]
    assert [kind for kind in kinds if kind in ("trial_stalled", "trial_retried")] == ["trial_stalled", "trial_retried"]
    (stalled,) = [event for event in events if event["kind"] == "trial_stalled"]
    assert "no sign of life for" in stalled["error"]
    epochs = [event["epoch"] for event in events if event["kind"] == "epoch"]
    assert sorted(epochs) == [1, 2, 3]  # the second comes with the record where its report was on its way


class Heard(Watcher):
    def __init__(self) -> None:
        self.kinds: list[str] = []

    def happened(self, kind: str, **fields: Any) -> None:
        self.kinds.append(kind)


def test_a_run_in_which_nothing_moves_says_so_once(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("harness.engine.ray_stalls.QUIET_SECONDS", 0.0)
    monkeypatch.setattr(StallWatch, "INTERVAL", 0.0)
    heard = Heard()
    watch = StallWatch(60, heard, Console())
    wanted = {"CPU": 99.0, "GPU": 0.0, "memory": 0.0}
    watch.step({"key": (tmp_path, "sst2/plain/0")}, [wanted])
    for _ in range(3):
        watch.step({"key": (tmp_path, "sst2/plain/0")}, [wanted])
    assert heard.kinds == ["nothing_moves"]
    said = capsys.readouterr().out
    assert (
        "1 trials have a process and are silent, 1 wait for one (the first wants {'CPU': 99.0}); free in the cluster: " in said
    )
    watch.step({}, [])  # the trial has ended: that is a move
    watch.step({}, [])
    assert heard.kinds == ["nothing_moves", "nothing_moves"]


def test_a_trial_that_has_ended_says_no_more(tmp_path: Path) -> None:
    """A result that comes after the outcome, and the loss of the process then, were a KeyError that ended the study."""
    plan, prepared = stand_in_plan(stand_in_study(["plain"], search={"trials": 1}))
    store = Store(tmp_path)
    session = RouterSession(Router(plan, plan.cells, prepared, store, Console(quiet=True)), store, False)
    callback = StoreCallback(session, Watcher(), StallWatch(60, Watcher(), Console(quiet=True)))
    config = RouterSearcher(session).suggest("one")
    assert isinstance(config, dict)
    outcome = pack(stand_in_train(TrialSpec.model_validate_json(config["spec"]), tmp_path))
    trial: Any = SimpleNamespace(trial_id="one", error_file=None)
    callback.on_trial_start(0, [], trial)
    callback.on_trial_result(0, [], trial, {"key": config["key"], "outcome": outcome})
    assert session.keys == {}
    epoch = EpochRecord(epoch=9, train_loss=0.0, terms={}, select={"accuracy": 1.0}, weights={}, seconds=0.0)
    late = {"key": config["key"], "epoch_record": epoch.model_dump_json()}
    assert RouterScheduler(session).on_trial_result(None, trial, late) == "CONTINUE"
    callback.on_trial_result(0, [], trial, late)
    callback.on_trial_result(0, [], trial, {"key": config["key"], "outcome": outcome})
    callback.on_trial_error(0, [], trial)
    assert [record.status for record in store.records()] == ["ok"]
