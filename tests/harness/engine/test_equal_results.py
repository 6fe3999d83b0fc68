"""The same study gives the same numbers on both engines, and on one worker and two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.console import Console
from harness.engine import inline
from harness.records import TrialRecord
from harness.store import Store
from harness.study import Study
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


def test_one_worker_and_two_find_the_same_up_to_rounding(cluster: None, tmp_path: Path) -> None:
    from harness.engine import ray_tune

    changes = {
        "strategies": ["fixed_alpha", "rw_kd"],
        "training": {"epochs": 3, "batch_size": 16, "learning_rate": 5e-3, "meta_batch_size": 8},
    }
    one = run_with(inline, tiny_study(**changes), tmp_path / "one", tmp_path / "cache")
    study = tiny_study(**changes, resources={"workers": 2, "concurrent_trials": 1})
    two = run_with(ray_tune, study, tmp_path / "two", tmp_path / "cache")
    assert one.keys() == two.keys()
    for alone, together in zip(one.records(), two.records(), strict=True):
        assert together.spec.resources.workers == 2
        for ours, theirs in zip(alone.epochs, together.epochs, strict=True):
            assert theirs.train_loss == pytest.approx(ours.train_loss, rel=1e-4)
            assert theirs.terms == pytest.approx(ours.terms, rel=1e-4, abs=1e-6)
            assert theirs.weights["ce"].mean == pytest.approx(ours.weights["ce"].mean, abs=1e-4)
        first, second = one.predictions(alone.key), two.predictions(together.key)
        assert list(first["id"]) == list(second["id"])
        np.testing.assert_allclose(first[["p0", "p1"]], second[["p0", "p1"]], atol=2e-3)  # stored with 11 bits
        assert together.cost.student_forward == alone.cost.student_forward
        assert together.cost.student_backward == alone.cost.student_backward
