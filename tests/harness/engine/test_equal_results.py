"""The same study gives the same numbers on both engines, and on one worker and two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.engine import inline, ray_train
from harness.engine.ray_mailbox import News
from harness.records import ErrorRecord, TrialRecord
from harness.store.store import Store
from harness.study.schema import Study
from harness.training.failures import classify
from harness.training.out_of_memory import OutOfMemoryError
from harness.watching.console import Console
from tests.harness.engine.conftest import CPUS
from tests.harness.engine.short_of_memory import LABEL, short_of_memory_train
from tests.harness.report.stores import Planted, build_store
from tests.harness.tiny import prepared_plan, tiny_study


def run_with(engine: Any, study: Study, folder: Path, cache: Path) -> Store:
    plan, prepared = prepared_plan(study, cache)
    store = Store(folder)
    engine.run_plan(plan, prepared, store, Console(quiet=True), cache)
    return store


def numbers(record: TrialRecord) -> dict[str, Any]:
    """What a trial found, without where and how fast."""
    found = record.model_dump(exclude={"finished_at", "cost", "environment", "spec"})
    for epoch in found["epochs"]:
        del epoch["seconds"]
    return {**found, "training": record.spec.training, "settings": record.spec.settings}


def test_stacked_trials_find_what_single_ones_do(tmp_path: Path) -> None:
    """Also beside a strategy that cannot be stacked, and with trials of one cell after another."""
    changes: dict[str, Any] = {
        "strategies": ["fixed_alpha", "wsl", "rw_kd"],
        "search": {
            "trials": 2,
            "repeats": 2,
            "space": {"learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}},
        },
    }
    one = run_with(inline, tiny_study(**changes), tmp_path / "one", tmp_path / "cache")
    resources = {"engine": "inline", "stacked": 4}
    several = run_with(inline, tiny_study(**changes, resources=resources), tmp_path / "several", tmp_path / "cache")
    assert len(one.keys()) == 12
    assert_same_but_for_rounding(several, one)


def test_stacked_trials_find_what_single_ones_do_under_ray(cluster: None, tmp_path: Path) -> None:
    from harness.engine import ray_tune

    changes: dict[str, Any] = {"strategies": ["fixed_alpha", "wsl", "rw_kd"], "search": {"trials": 1, "repeats": 2}}
    one = run_with(inline, tiny_study(**changes), tmp_path / "one", tmp_path / "cache")
    resources = {"stacked": 4, "cpus_per_worker": CPUS}  # one process
    several = run_with(ray_tune, tiny_study(**changes, resources=resources), tmp_path / "several", tmp_path / "cache")
    assert_same_but_for_rounding(several, one)
    shared = {record.spec.label: record.cost.stacked for record in several.records()}
    assert shared == {"fixed_alpha": 4, "wsl": 4, "rw_kd": 1}


def assert_same_but_for_rounding(several: Store, one: Store) -> None:
    assert several.keys() == one.keys()
    for found, alone in zip(several.records(), one.records(), strict=True):
        assert (found.key, found.status, found.best_epoch) == (alone.key, alone.status, alone.best_epoch)
        for epoch, same in zip(found.epochs, alone.epochs, strict=True):
            assert epoch.train_loss == pytest.approx(same.train_loss, rel=1e-4)
        pd.testing.assert_frame_equal(
            several.predictions(found.key).drop(columns="predicted"),
            one.predictions(found.key).drop(columns="predicted"),
            atol=1e-4,
        )


def test_both_engines_search_alike_and_find_the_same(cluster: None, tmp_path: Path) -> None:
    from harness.engine import ray_tune

    study = tiny_study(
        strategies=["fixed_alpha", "random_weights"],
        search={
            "trials": 2,
            "repeats": 1,
            "space": {"learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}},
        },
        resources={"concurrent_trials": 1},  # every process imports torch; that others run beside it: test_router.py
    )
    here = run_with(inline, study, tmp_path / "inline", tmp_path / "cache")
    there = run_with(ray_tune, study, tmp_path / "ray", tmp_path / "cache")
    assert len(here.keys()) == 4
    assert [numbers(record) for record in here.records()] == [numbers(record) for record in there.records()]
    for key in here.keys():  # noqa: SIM118
        pd.testing.assert_frame_equal(here.predictions(key), there.predictions(key))


@pytest.fixture(scope="module")
def one_and_two(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Store, Path]:
    """A study on one worker, in this process, and on two; in the last trial of the latter a rank runs out of memory."""
    from harness.engine import ray_tune

    folder = tmp_path_factory.mktemp("workers")
    cache = folder / "cache"
    changes = {
        "strategies": ["fixed_alpha", "rw_kd", {"name": "fixed_alpha", "label": LABEL, "settings": {"kd_weight": 0.3}}],
        "training": {"epochs": 3, "batch_size": 16, "learning_rate": 5e-3, "meta_batch_size": 8},
    }
    one = run_with(inline, tiny_study(**changes), folder / "one", cache)
    resources = {"workers": 2, "concurrent_trials": 1, "retries": 0}
    plan, prepared = prepared_plan(tiny_study(**changes, resources=resources), cache)
    two = Store(folder / "two")
    ray_tune.run_plan(plan, prepared, two, Console(quiet=True), cache, train=short_of_memory_train)
    assert set(one.keys()).isdisjoint(two.keys())  # other dropout, where there is some: other trials
    return one, two, cache


def pairs(one: Store, two: Store, *labels: str) -> Iterator[tuple[TrialRecord, TrialRecord]]:
    found = [pair for pair in zip(one.records(), two.records(), strict=True) if pair[0].spec.label in labels]
    assert len(found) == len(labels)
    return iter(found)


def assert_same_up_to_rounding(one: Store, two: Store, *labels: str) -> None:
    for alone, together in pairs(one, two, *labels):
        assert together.status == "ok", together.error
        assert together.spec.resources.workers == 2
        for ours, theirs in zip(alone.epochs, together.epochs, strict=True):
            assert theirs.train_loss == pytest.approx(ours.train_loss, rel=1e-4)
            assert theirs.terms == pytest.approx(ours.terms, rel=1e-4, abs=1e-6)
            assert theirs.weights["ce"].mean == pytest.approx(ours.weights["ce"].mean, abs=1e-4)
        first, second = one.predictions(alone.key), two.predictions(together.key)
        assert list(first["id"]) == list(second["id"])
        np.testing.assert_allclose(first[["p0", "p1"]], second[["p0", "p1"]], atol=2e-3)  # stored with 11 bits


@pytest.mark.slow
def test_one_worker_and_two_find_the_same_up_to_rounding(one_and_two: tuple[Store, Store, Path]) -> None:
    one, two, _ = one_and_two
    labels = ("fixed_alpha", "rw_kd")
    assert_same_up_to_rounding(one, two, *labels)
    for alone, together in pairs(one, two, *labels):
        assert together.cost.student_forward == alone.cost.student_forward
        assert together.cost.student_backward == alone.cost.student_backward


@pytest.mark.slow
def test_where_one_rank_runs_out_of_memory_all_go_on_in_smaller_parts(one_and_two: tuple[Store, Store, Path]) -> None:
    """It costs no retry (there is none), nothing of the epochs before, and changes no result."""
    one, two, cache = one_and_two
    assert_same_up_to_rounding(one, two, LABEL)
    ((_, record),) = pairs(one, two, LABEL)
    assert [epoch.micro_batches for epoch in record.epochs] == [1, 2, 2]
    events = [event for event in two.events() if event.get("key") == record.key]
    kinds = [event["kind"] for event in events]
    assert kinds == ["trial_started", "epoch", "out_of_memory", "epoch", "epoch", "trial_finished"]
    assert "CUDA out of memory" in events[2]["error"]
    ran = [line.split() for line in (cache / f"ranks of {LABEL}").read_text().splitlines()]
    assert sorted((rank, parts, resumed) for rank, _, parts, resumed in ran) == [
        ("0", "1", "False"),
        ("0", "2", "True"),
        ("1", "1", "False"),
        ("1", "2", "True"),
    ]
    assert len({process for _, process, _, _ in ran}) == 4  # the ranks that were out of memory were given up


class Group:
    """Two ranks, of which one has no room for fewer than `needed` micro-batches."""

    needed = 1
    started: list[int] = []

    def __init__(self, *_: Any) -> None:
        self.lost_a_process = False
        self.error = None

    def start(self, config: dict[str, Any], micro_batches: int) -> None:
        assert config["student_folder"] == "student"
        self.started.append(micro_batches)
        fits = micro_batches >= self.needed
        lost = ray_train._Failure(ErrorRecord(kind="bug", type="RuntimeError", message="gloo/transport"), True)
        full = ray_train._Failure(classify(OutOfMemoryError("CUDA out of memory")), False)
        ends = [News("finished", 1, "outcome"), News("finished", 1)]
        self.news = ends if fits else [News("failed", 1, full), News("failed", 1, lost), News("closed")]

    def read(self) -> News:
        return self.news.pop(0)

    def close(self) -> None:
        pass


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ray_train.Supervisor:
    monkeypatch.setattr(ray_train, "RankGroup", Group)
    monkeypatch.setattr(Group, "started", [])
    return ray_train.Supervisor(None, tmp_path, tmp_path)


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    from harness.store.store import Store

    build_store(tmp_path / "store", Planted(("sst2",), ("fixed_alpha",), repeats=1, trials=1, rows=20))
    record: TrialRecord = Store(tmp_path / "store").records()[0]
    two = record.spec.resources.model_copy(update={"workers": 2})
    training = record.spec.training.model_copy(update={"batch_size": 12})
    spec = record.spec.model_copy(update={"resources": two, "training": training})
    return {"spec": spec.model_dump_json(), "student_folder": "student"}


def test_the_trial_goes_on_in_smaller_parts(
    supervisor: ray_train.Supervisor, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Group, "needed", 3)
    supervisor.start(config)
    assert [supervisor.wait() for _ in range(2)] == [{"out_of_memory": "CUDA out of memory"}] * 2
    assert supervisor.wait() == {"outcome": "outcome", "done": True}
    assert Group.started == [1, 2, 4]
    supervisor.start(config)  # the next trial may be another one
    assert Group.started[-1] == 1


def test_single_samples_that_do_not_fit_are_a_failure(
    supervisor: ray_train.Supervisor, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Group, "needed", 100)
    supervisor.start(config)
    *said, last = [supervisor.wait() for _ in range(4)]
    assert all("out_of_memory" in news for news in said)
    error = ErrorRecord.model_validate_json(last["error"])
    assert error.kind == "out_of_memory"
    assert Group.started == [1, 2, 4, 6]
