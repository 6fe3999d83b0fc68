"""Searches stop the same trials, after the same epoch, whichever engine trains them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.engine import inline
from harness.store.store import Store
from harness.watching.console import Console
from tests.harness.engine.conftest import StandInRun
from tests.harness.engine.stand_in import stand_in_plan, stand_in_study, stand_in_train

SEARCH = {"trials": 5, "early_stopping": {"kind": "asha", "reduction_factor": 2}}
TRAINING = {"epochs": 4}


def records(store: Store, *labels: str) -> list[dict[str, Any]]:
    """What the store holds of trials of these labels, but for the number of workers and what hangs on it."""
    found = [record for record in store.records() if record.spec.label in labels]
    kept = [record.model_dump(exclude={"key", "spec", "early_stopping"}) for record in found]
    return [{**one, "label": r.spec.label, "index": r.spec.index} for one, r in zip(kept, found, strict=True)]


def run_here(folder: Path, labels: list[str], search: dict[str, Any]) -> Store:
    """With the inline engine."""
    plan, prepared = stand_in_plan(stand_in_study(labels, search=search, training=TRAINING))
    store = Store(folder / "store")
    inline.run_plan(plan, prepared, store, Console(quiet=True), folder, train=stand_in_train)
    assert {"ok", "stopped"} == {record.status for record in store.records()}
    return store


def test_ray_stores_the_same_of_trials_that_are_stopped(stand_in_run: Callable[..., StandInRun], tmp_path: Path) -> None:
    here = run_here(tmp_path, ["plain", "other"], SEARCH)
    resources = {"concurrent_trials": 2, "retries": 1}
    run = stand_in_run(["plain", "other", "killed"], resources=resources, search=SEARCH, training=TRAINING)()
    labels = ("plain", "other")
    assert records(run.store, *labels) == records(here, *labels)
    assert {record.key for record in here.records()} < {record.key for record in run.store.records()}
    assert {str(record.early_stopping) for record in here.records()} == {
        str(record.early_stopping) for record in run.store.records() if record.spec.label in labels
    }
    # a search whose trial lost its process after the first epoch went on all the same
    assert {r.status for r in run.store.records() if r.spec.label == "killed"} == {"ok", "stopped"}
    # the processes of trials that are stopped train the next ones
    assert run.log.process.nunique() <= 3
    told = [event["kind"] for event in run.store.events() if event.get("cell") == "sst2/plain/0"]
    assert told.count("trial_stopped") == sum(one["status"] == "stopped" for one in records(here, "plain")) > 0


@pytest.mark.slow
def test_and_of_two_workers(stand_in_run: Callable[..., StandInRun], tmp_path: Path) -> None:
    """Trials that want the whole cluster: what the stopped ones had is given back, that of the last one to the next run."""
    resources = {"workers": 2, "cpus_per_worker": 2}
    search = {**SEARCH, "trials": 3}
    run = stand_in_run(["plain"], resources=resources, search=search, training=TRAINING)()
    assert [one["status"] for one in records(run.store, "plain")][-1] == "stopped"
    assert records(run.store, "plain") == records(run_here(tmp_path, ["plain"], search), "plain")
    run = stand_in_run(["raises"], resources=resources, search={"trials": 1})()
    error = run.record("raises").error
    assert error is not None
    assert (error.kind, error.type) == ("bug", "KeyError")
    assert "in _behave" in error.traceback
