"""One-worker trials through Ray Tune: what is stored, what is not run twice, and what a fault costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.air.execution import ResourceRequest

from harness.engine import inline
from harness.engine.cluster import ClusterError
from harness.engine.ray_placement_groups import SettledPlacementGroups, is_settled
from harness.engine.ray_scheduler import RouterScheduler
from harness.engine.ray_session import RouterSession
from harness.engine.router import Router
from harness.errors import StoreError
from harness.report.selection import select
from harness.store.store import Store
from harness.watching.console import Console
from tests.harness.engine.conftest import StandInRun
from tests.harness.engine.stand_in import stand_in_plan, stand_in_study, stand_in_train

Run = Callable[..., StandInRun]


def test_resources_that_are_asked_for_and_given_up_at_once_are_free_again(
    cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray keeps those of a placement group that is removed while it is being made, with a chance of one in six."""
    removed, remove = [], ray.util.remove_placement_group
    monkeypatch.setattr(ray.util, "remove_placement_group", lambda group: (removed.append(is_settled(group)), remove(group)))
    manager, one_cpu = SettledPlacementGroups(), ResourceRequest([{"CPU": 1}])
    before = ray.available_resources()["CPU"]
    for _ in range(30):
        manager.request_resources(one_cpu)
        manager.cancel_resource_request(one_cpu)
    assert removed == [True] * 30
    until = time.monotonic() + 10
    while ray.available_resources().get("CPU", 0) < before and time.monotonic() < until:
        time.sleep(0.1)  # Ray tells it late
    assert ray.available_resources().get("CPU", 0) >= before


@pytest.fixture(scope="module")
def faulty(stand_in_run: Run) -> StandInRun:
    """A study in which most things go wrong that can."""
    run = stand_in_run(
        ["plain", "raises", "diverges", "nan", "killed", "always_killed", "damaged"],
        resources={"concurrent_trials": 2, "retries": 1},
        search={"trials": 1},
    )
    damaged = run.store.path / "running" / run.specs()[-1].key
    damaged.mkdir(parents=True)
    (damaged / "training.ckpt").write_bytes(b"damaged")
    return run()


def test_every_trial_gets_a_record_whatever_happens(faulty: StandInRun) -> None:
    ends = {r.spec.label: (r.status, r.error and r.error.kind) for r in faulty.store.records()}
    assert ends == {
        "plain": ("ok", None),
        "raises": ("failed", "bug"),
        "diverges": ("failed", "diverged"),
        "nan": ("ok", None),
        "killed": ("ok", None),
        "always_killed": ("failed", "infrastructure"),
        "damaged": ("ok", None),
    }
    raised, lost = faulty.record("raises"), faulty.record("always_killed")
    assert raised.error is not None
    assert raised.error.type == "KeyError"
    assert "in _behave" in raised.error.traceback
    assert raised.majority["validation"].metrics == {"accuracy": 0.5}
    assert lost.error is not None
    assert "worker process has died" in lost.error.message
    assert len(faulty.store.predictions(faulty.record("killed").key)) == 2


def test_a_killed_trial_goes_on_from_its_checkpoint_to_the_same_result(faulty: StandInRun) -> None:
    killed = faulty.log[faulty.log.label == "killed"]
    assert list(killed[killed.kind == "epoch"].epoch) == [0, 1, 2]  # none was trained twice
    assert killed.process.nunique() == 2
    assert faulty.record("killed").objective == faulty.record("plain").objective
    assert faulty.store.predictions(faulty.record("killed").key).equals(faulty.store.predictions(faulty.record("plain").key))


def test_only_lost_processes_are_tried_again(faulty: StandInRun) -> None:
    starts = faulty.log[faulty.log.kind == "starts"].groupby("label").epoch.apply(list).to_dict()
    assert starts == {
        "plain": [0],
        "raises": [0],
        "diverges": [0],
        "nan": [0],
        "killed": [0, 1],
        "always_killed": [0, 1],
        "damaged": [0],  # its checkpoint could not be read
    }
    retried = [event["key"] for event in faulty.store.events() if event["kind"] == "trial_retried"]
    assert sorted(retried) == sorted([faulty.record("killed").key, faulty.record("always_killed").key])


def test_events_say_what_happened_to_each_trial(faulty: StandInRun) -> None:
    events = faulty.store.events()
    assert [event["slots"] for event in events if event["kind"] == "slots"] == [2]
    by_cell: dict[str, list[str]] = {}
    for event in events:
        if "cell" in event:
            by_cell.setdefault(event["cell"].split("/")[1], []).append(event["kind"])
    whole = ["trial_started", "epoch", "epoch", "epoch", "trial_finished"]
    assert by_cell["plain"] == whole
    assert by_cell["raises"] == ["trial_started", "trial_failed"]
    assert by_cell["killed"] == ["trial_started", "epoch", "trial_retried", "epoch", "epoch", "trial_finished"]
    assert by_cell["always_killed"] == ["trial_started", "epoch", "trial_retried", "trial_failed"]
    assert by_cell["damaged"] == ["trial_started", "checkpoint_damaged", *whole[1:]]


@pytest.mark.slow
@pytest.mark.parametrize(("label", "workers"), [("killed", 1), ("killed_rank", 2)])
def test_a_trial_too_short_for_checkpoints_starts_again(stand_in_run: Run, label: str, workers: int) -> None:
    resources = {"checkpoint_seconds": 3600, "retries": 1, "workers": workers}
    run = stand_in_run([label], search={"trials": 1}, resources=resources)()
    first_rank = run.log[run.log["rank"] == 0]
    assert list(first_rank[first_rank.kind == "starts"].epoch) == [0, 0]
    assert run.record(label).status == "ok"


def test_nothing_of_ray_is_left_in_the_store(faulty: StandInRun) -> None:
    assert sorted(path.name for path in faulty.store.path.iterdir()) == ["events.jsonl", "optuna.db", "predictions", "trials"]


def test_a_result_that_is_no_number_is_stored_as_none(faulty: StandInRun) -> None:
    assert faulty.record("nan").objective is None


@pytest.mark.slow
def test_ray_is_quiet(stand_in_run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    run = stand_in_run(["killed", "raises"], search={"trials": 1})()
    printed = capfd.readouterr()
    assert printed.out == "failed: sst2/raises/0 trial 0 (bug): KeyError: 'a mistake in a strategy'\n"  # by our console
    assert printed.err == ""
    # and a second run: only what had failed is run again
    first = len(run.log)
    run()
    assert set(run.log[first:].label) == {"raises"}


def test_winners_are_run_with_every_seed_in_one_warm_process(stand_in_run: Run) -> None:
    search = {"trials": 4, "repeats": 2, "repeat": "winner"}
    run = stand_in_run(["plain"], search=search, resources={"concurrent_trials": 1})()
    records = run.store.records()
    final = [record for record in records if record.spec.purpose == "final"]
    searched = [record for record in records if record.spec.purpose == "search"]
    best = max(searched, key=lambda record: record.objective or 0)
    assert len(searched) == 4
    assert [record.spec.repeat for record in final] == [0, 1]
    assert {record.spec.training.temperature for record in final} == {best.spec.training.temperature}
    assert run.log.process.nunique() == 1


def test_a_trial_that_fits_nowhere_is_refused(stand_in_run: Run) -> None:
    run = stand_in_run(["plain"], resources={"per_task": {"sst2": {"workers": 3, "cpus_per_worker": 2}}})
    with pytest.raises(
        ClusterError, match=r"sst2 wants 3 workers with 2 CPUs and 0 GPUs each; the cluster has 1 node with 4 CPUs"
    ):
        run()


def test_an_error_of_the_store_ends_the_run_as_itself(stand_in_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stand_in_run(["plain"], search={"trials": 1})

    def full(*_: Any) -> None:
        raise StoreError("no space left")

    monkeypatch.setattr(run.store, "write", full)
    with pytest.raises(StoreError, match="no space left"):
        run()


@pytest.mark.parametrize("search", [{"repeats": 2, "trials": 4}, {"repeats": 2, "trials": 3, "repeat": "winner"}])
def test_the_students_that_are_left_are_the_chosen_ones(search: dict[str, Any], tmp_path: Path) -> None:
    plan, prepared = stand_in_plan(stand_in_study(["plain", "raises"], search=search, keep_students="chosen"))
    store = Store(tmp_path / "store")
    there = []

    def train(*given: Any, student_folder: Path | None = None, **more: Any) -> Any:
        outcome = stand_in_train(*given, **more)
        if student_folder is not None:
            student_folder.mkdir(parents=True)
            there.append(len(list(student_folder.parent.iterdir())))
        return outcome

    (tmp_path / "cache").mkdir()
    inline.run_plan(plan, prepared, store, Console(quiet=True), tmp_path / "cache", train=train)
    chosen = {row.record.key for row in select(store.path).of("plain") if row.record is not None}
    assert len(chosen) == 2
    assert {folder.name for folder in (store.path / "students").iterdir()} == chosen
    assert max(there) <= 3  # one a repeat, and the one that has just been trained


def test_a_free_process_goes_to_the_newest_of_those_that_wait(tmp_path: Path) -> None:
    """For the older ones processes are being started, which would be ended."""
    plan, prepared = stand_in_plan(stand_in_study(["plain"]))
    store = Store(tmp_path)
    session = RouterSession(Router(plan, plan.cells, prepared, store, Console(quiet=True)), store, False)
    schedule, controller = RouterScheduler(session), None
    trials = [SimpleNamespace(trial_id=str(number), status="PENDING") for number in range(4)]
    for trial in trials:
        schedule.on_trial_add(controller, trial)
    assert schedule.choose_trial_to_run(controller) is trials[3]
    trials[3].status = "RUNNING"
    assert schedule.choose_trial_to_run(controller) is trials[2]
    schedule.on_trial_error(controller, trials[2])
    schedule.on_trial_remove(controller, trials[1])
    assert schedule.choose_trial_to_run(controller) is trials[0]
    schedule.on_trial_complete(controller, trials[0], {})
    assert schedule.choose_trial_to_run(controller) is None
