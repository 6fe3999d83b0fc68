"""Ranks that run out of memory: their supervisor has the trial go on in micro-batches. The ranks are pretended, without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.engine import ray_train
from harness.engine.ray_mailbox import News
from harness.records import ErrorRecord, TrialRecord, TrialSpec
from harness.training.failures import classify
from harness.training.out_of_memory import OutOfMemoryError
from tests.harness.report.stores import Planted, build_store


class Group:
    """Two ranks, of which one has no room for fewer than `needed` micro-batches."""

    needed = 1
    started: list[int] = []

    def __init__(self, *_: Any) -> None:
        self.lost_a_process = False
        self.error = None

    def start(self, spec: TrialSpec, checkpoint: Path, micro_batches: int, student_folder: str | None) -> None:
        assert student_folder == "student"
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
def spec(tmp_path: Path) -> TrialSpec:
    from harness.store.store import Store

    build_store(tmp_path / "store", Planted(("sst2",), ("fixed_alpha",), repeats=1, trials=1, rows=20))
    record: TrialRecord = Store(tmp_path / "store").records()[0]
    two = record.spec.resources.model_copy(update={"workers": 2})
    training = record.spec.training.model_copy(update={"batch_size": 12})
    return record.spec.model_copy(update={"resources": two, "training": training})


def test_the_trial_goes_on_in_smaller_parts(
    supervisor: ray_train.Supervisor, spec: TrialSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Group, "needed", 3)
    supervisor.start(spec, tmp_path, student_folder="student")
    assert [supervisor.wait() for _ in range(2)] == [{"out_of_memory": "CUDA out of memory"}] * 2
    assert supervisor.wait() == {"outcome": "outcome", "done": True}
    assert Group.started == [1, 2, 4]
    supervisor.start(spec, tmp_path, student_folder="student")  # the next trial may be another one
    assert Group.started[-1] == 1


def test_single_samples_that_do_not_fit_are_a_failure(
    supervisor: ray_train.Supervisor, spec: TrialSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Group, "needed", 100)
    supervisor.start(spec, tmp_path, student_folder="student")
    *said, last = [supervisor.wait() for _ in range(4)]
    assert all("out_of_memory" in news for news in said)
    error = ErrorRecord.model_validate_json(last["error"])
    assert error.kind == "out_of_memory"
    assert Group.started == [1, 2, 4, 6]
