"""Trials across nodes, a node lost in the middle of one, and a node that does not see the cache."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.commands.manifest import make_manifest, now
from harness.engine import inline
from harness.engine.cluster import ClusterError, ray_slots, require_slots
from harness.plan.plan import Plan
from harness.plan.prepared import PreparedTask
from harness.report.leaderboard import make_leaderboard
from harness.report.tables import scores_text
from harness.store.store import Store
from harness.study.resources import TaskResources
from harness.watching.console import Console
from tests.conftest import PROJECT
from tests.harness.engine.conftest import StandInRun
from tests.harness.engine.several_nodes import (
    EPOCHS,
    TRIALS,
    autoscaled_study,
    many_trials,
    notes,
    shipped_nodes,
    two_node_study,
)
from tests.harness.engine.stand_in import stand_in_plan, stand_in_train
from tests.harness.engine.test_equal_results import numbers
from tests.harness.tiny import prepared_plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run on four nodes left, one of which was lost."""
    folder = tmp_path_factory.mktemp("nodes")
    run_in_a_process(folder)
    return folder


def run_in_a_process(folder: Path, *which: str, seconds: float = 280) -> None:
    command = [sys.executable, "-m", "tests.harness.engine.several_nodes", str(folder), *which]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=seconds)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_workers_of_a_trial_are_on_different_nodes(folder: Path) -> None:
    for label in ("fixed_alpha", "ce_only"):
        of_trial = [note for note in notes(folder / "cache") if note["label"] == label]
        last = {note["rank"]: note["node"] for note in of_trial if note["epoch"] == EPOCHS - 1}
        assert len(set(last.values())) == 2


@pytest.mark.slow
def test_a_lost_node_is_said_and_its_trial_goes_on_from_its_checkpoint(folder: Path) -> None:
    events = Store(folder / "store").events()
    kinds = [event["kind"] for event in events]
    assert kinds.count("node_lost") == 1
    assert kinds.count("trial_retried") == 1
    (key,) = [event["key"] for event in events if event["kind"] == "trial_retried"]
    epochs = [event["epoch"] for event in events if event["kind"] == "epoch" and event["key"] == key]
    assert epochs == sorted(set(epochs)) == list(range(1, EPOCHS + 1))  # none was trained twice
    lost = {note["node"] for note in notes(folder / "cache") if note["rank"] == 1 and note["epoch"] == 1}
    assert len(lost) >= 1


@pytest.mark.slow
def test_the_study_ends_with_the_numbers_of_an_undisturbed_one(folder: Path, tmp_path: Path) -> None:
    plan, prepared = prepared_plan(two_node_study(engine="inline"), folder / "cache")
    store = Store(tmp_path / "store")
    inline.run_plan(plan, prepared, store, Console(quiet=True), folder / "cache")
    across = Store(folder / "store")
    for alone, spread in zip(store.records(), across.records(), strict=True):  # by label: two workers have keys of their own
        assert spread.status == "ok"
        assert [e.train_loss for e in spread.epochs] == pytest.approx([e.train_loss for e in alone.epochs], rel=1e-4)
        here, there = store.predictions(alone.key), across.predictions(spread.key)
        np.testing.assert_allclose(there[["p0", "p1"]], here[["p0", "p1"]], atol=2e-3)  # stored with 11 bits


@pytest.mark.slow
def test_a_node_that_does_not_see_the_cache_is_named(folder: Path) -> None:
    said = (folder / "refused").read_text()
    if said == "not tried":
        pytest.skip("needs leave to mount a file system")
    assert re.search(
        rf"1 of the cluster's 4 nodes do not see .*: node [\d.]+ \(\w{{12}}\) does not see the cache, {folder}/cache\. ", said
    )
    assert "HARNESS_CACHE" in said
    assert not list(folder.rglob(".shared-*"))


@pytest.mark.slow
def test_a_head_without_cpus_gets_the_nodes_that_a_study_needs(tmp_path: Path) -> None:
    """From none to as many as studies/cluster/cluster.yaml allows."""
    run_in_a_process(tmp_path, "autoscaled")
    head, worker = shipped_nodes()
    assert (head["resources"], worker["min_workers"]) == ({"CPU": 0}, 0)
    store = Store(tmp_path / "store")
    events = store.events()
    assert [event["slots"] for event in events if event["kind"] == "slots"] == [worker["max_workers"]]
    joined = [event for event in events if event["kind"] == "node_joined"]
    assert 1 <= len(joined) <= worker["max_workers"]
    assert {(event["cpus"], event["gpus"]) for event in joined} == {(worker["resources"]["CPU"], worker["resources"]["GPU"])}
    plan, prepared = stand_in_plan(autoscaled_study())
    here = Store(tmp_path / "here")
    inline.run_plan(plan, prepared, here, Console(quiet=True), tmp_path, train=stand_in_train)
    assert [numbers(record) for record in store.records()] == [numbers(record) for record in here.records()]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_many_short_trials_among_nodes_that_come_and_go_are_those_of_an_undisturbed_run(tmp_path: Path) -> None:
    run_in_a_process(tmp_path, "disturbed", seconds=1200)
    store = Store(tmp_path / "store")
    events = store.events()
    kinds = [event["kind"] for event in events]
    assert (kinds.count("node_joined"), kinds.count("node_lost")) == (2, 1)
    retried = [event["error"] for event in events if event["kind"] == "trial_retried"]
    assert any("low on memory" not in error for error in retried), retried  # that of the lost node
    assert any("low on memory" in error for error in retried), retried
    here = Store(tmp_path / "here")
    plan, prepared = prepared_plan(many_trials(engine="inline"), tmp_path / "cache")
    inline.run_plan(plan, prepared, here, Console(quiet=True), tmp_path / "cache")
    assert len(store.keys()) == TRIALS
    assert {record.status for record in store.records()} == {"ok"}
    for ours, theirs in zip(store.records(), here.records(), strict=True):
        assert numbers(ours) == numbers(theirs)
        pd.testing.assert_frame_equal(store.predictions(ours.key), here.predictions(theirs.key))
    pd.testing.assert_frame_equal(table(store, plan, prepared), table(here, plan, prepared))


def table(store: Store, plan: Plan, prepared: Mapping[str, PreparedTask]) -> pd.DataFrame:
    """Score of every cell, and which trial it is of: all tables and plots are made of it."""
    store.write_manifest(make_manifest(plan, prepared, Path("study.yaml"), [], now()))
    return pd.read_csv(StringIO(scores_text(make_leaderboard(store.path)))).drop(columns="train_seconds")


def test_slots_of_trials_whose_workers_must_be_apart(cluster: None) -> None:
    apart = TaskResources(workers=2, placement="strict_spread")
    assert ray_slots(TaskResources(workers=2, placement="spread")) == 2
    assert ray_slots(apart) == 0  # one node
    with pytest.raises(ClusterError, match="2 workers on different nodes with 1 CPU and"):
        require_slots("rte", apart)


@pytest.mark.slow
def test_cells_of_different_shapes_run_in_one_study(stand_in_run: Callable[..., StandInRun]) -> None:
    run = stand_in_run(
        ["plain"],
        tasks=["sst2", "rte", "qnli"],
        search={"trials": 1},
        resources={
            "cpus_per_worker": 0.5,
            "gpus_per_worker": 0.25,
            "memory_per_worker": 2**20,
            "per_task": {"rte": {"cpus_per_worker": 1, "gpus_per_worker": 0.5}, "qnli": {"workers": 2, "cpus_per_worker": 1}},
        },
    )
    assert {cell.task.name: ray_slots(cell.resources) for cell in run.plan.cells} == {"sst2": 4, "rte": 2, "qnli": 2}
    run()
    ends = {record.spec.task.name: record.error or record.status for record in run.store.records()}
    assert ends == {"sst2": "ok", "rte": "ok", "qnli": "ok"}
    given = set(zip(run.log.task, run.log.gpus, strict=True))
    assert given == {("sst2", "0"), ("rte", "0"), ("qnli", "")}
    assert set(run.log[run.log.task == "qnli"]["rank"]) == {0, 1}
    assert [event["slots"] for event in run.store.events() if event["kind"] == "slots"] == [4, 2]
