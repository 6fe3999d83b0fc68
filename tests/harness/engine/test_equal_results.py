"""The same study gives the same numbers on both engines, and on one worker and two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.engine import inline
from harness.records import TrialRecord
from harness.store.store import Store
from harness.study.schema import Study
from harness.watching.console import Console
from tests.harness.engine.short_of_memory import LABEL, short_of_memory_train
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


def test_both_engines_search_alike_and_find_the_same(cluster: None, tmp_path: Path) -> None:
    from harness.engine import ray_tune

    study = tiny_study(
        strategies=["fixed_alpha", "random_weights"],
        search={
            "trials": 4,
            "repeats": 1,
            "space": {"learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}},
        },
        resources={"concurrent_trials": 2},
    )
    here = run_with(inline, study, tmp_path / "inline", tmp_path / "cache")
    there = run_with(ray_tune, study, tmp_path / "ray", tmp_path / "cache")
    assert len(here.keys()) == 8
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
