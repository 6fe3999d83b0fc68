"""Searches stop the same trials, after the same epoch, whichever engine trains them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.engine import inline, ray_train
from harness.engine.ray_mailbox import News
from harness.engine.ray_scheduler import RouterScheduler
from harness.records import EpochRecord
from harness.store.store import Store
from harness.watching.console import Console
from tests.harness.engine.conftest import CPUS, StandInRun
from tests.harness.engine.stand_in import stand_in_plan, stand_in_study, stand_in_train

SEARCH = {"trials": 5, "early_stopping": {"kind": "asha", "reduction_factor": 2}}
TRAINING = {"epochs": 4}


def ends(store: Store) -> dict[tuple[str, int], tuple[str, str, int | None, int]]:
    return {
        (r.spec.label, r.spec.index): (r.key, r.status, r.stopped_after_epoch, len(r.epochs))
        for r in store.records()
        if r.spec.label in ("plain", "other")
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], tuple[str, str, int | None, int]]:
    cache: Path = tmp_path_factory.mktemp("inline")
    plan, prepared = stand_in_plan(stand_in_study(["plain", "other"], search=SEARCH, training=TRAINING))
    store = Store(cache / "store")
    inline.run_plan(plan, prepared, store, Console(quiet=True), cache, train=stand_in_train)
    found = ends(store)
    assert {"ok", "stopped"} == {status for _, status, _, _ in found.values()}
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "stacked"), [(1, 1), (2, 1), (1, 2)])
def test_ray_stops_the_same_trials(
    workers: int,
    stacked: int,
    stand_in_run: Callable[..., StandInRun],
    expected: dict[tuple[str, int], tuple[str, str, int | None, int]],
) -> None:
    labels = ["plain", "other", "killed"] if workers == 1 else ["plain", "other"]
    resources = {"workers": workers, "concurrent_trials": 3 - workers, "retries": 1}
    if stacked > 1:
        resources |= {"stacked": stacked, "cpus_per_worker": CPUS}  # all in one process
    run = stand_in_run(labels, resources=resources, search=SEARCH, training=TRAINING)()
    found = ends(run.store)
    if workers == 1:
        assert found == expected
    else:  # trials of two workers have keys of their own
        assert {cell: end[1:] for cell, end in found.items()} == {cell: end[1:] for cell, end in expected.items()}
    if workers == 1:  # a search whose trial lost its process after the first epoch went on all the same
        assert {r.status for r in run.store.records() if r.spec.label == "killed"} == {"ok", "stopped"}
    else:  # all ranks ended together, so the group was kept for all trials
        assert run.log.groupby("rank").process.nunique().to_dict() == {0: 1, 1: 1}


@pytest.mark.parametrize("stops", [True, False])
def test_all_ranks_hear_what_the_scheduler_says_before_anything_else_is_asked_of_them(
    stops: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = StandInRun(tmp_path, ["plain"], resources={"workers": 2}, search=SEARCH)
    (spec,) = run.specs()
    record = EpochRecord(epoch=4, train_loss=0.0, terms={}, select={"accuracy": 0.5}, weights={}, seconds=0.0)
    news = [News("epoch", 1, (4, record.model_dump_json())), News("finished", 1, "outcome"), News("finished", 1)]
    done: list[Any] = []

    class Group:
        def __init__(self, *_: Any) -> None:
            self.start = lambda config, micro_batches: done.append(micro_batches)
            self.answer = lambda epoch, stop: done.append((epoch, stop))
            self.read = lambda: done.append(news[0].kind) or news.pop(0)

    monkeypatch.setattr(ray_train, "RankGroup", Group)
    actor = SimpleNamespace(__ray_call__=SimpleNamespace(remote=lambda function, *given: function(actor, *given)))
    monkeypatch.setattr(ray_train, "epoch_report", lambda config, content: {"epoch_record": content, "actor": actor})
    session: Any = SimpleNamespace(
        key_of=lambda trial, result: spec.key, guard=nullcontext, router=SimpleNamespace(epoch=lambda key, record: stops)
    )
    supervisor = ray_train.Supervisor(None, tmp_path, tmp_path)
    supervisor.start({"spec": spec.model_dump_json(), "may_stop": True})
    trial = SimpleNamespace(trial_id="one")
    assert RouterScheduler(session).on_trial_result(None, trial, supervisor.wait()) == "CONTINUE"
    assert supervisor.wait() == {"outcome": "outcome", "done": True}
    assert done == [1, "epoch", (4, stops), "finished", "finished"]
