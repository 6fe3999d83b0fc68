"""One Ray cluster for all tests of the engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.engine.cluster import connect
from harness.plan.plan import trial_spec
from harness.records import TrialRecord, TrialSpec
from harness.store.store import Store
from harness.watching.console import Console
from tests.harness.engine.stand_in import read_log, stand_in_plan, stand_in_study, stand_in_train

CPUS = 4
GPUS = 1
"""Only Ray believes in it."""

os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own is 15: beside other work its processes would hardly get a core


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with connect(None, tmp_path_factory.mktemp("logs"), cpus=CPUS, gpus=GPUS):
        yield


class StandInRun:
    """A study of stand-ins, run on the cluster."""

    def __init__(self, folder: Path, labels: list[str], **changes: Any) -> None:
        self.plan, self.prepared = stand_in_plan(stand_in_study(labels, **changes))
        self.store = Store(folder / "store")
        self.cache = folder / "cache"
        self.cache.mkdir(exist_ok=True)

    def __call__(self) -> StandInRun:
        from harness.engine.ray_tune import run_plan

        run_plan(self.plan, self.prepared, self.store, Console(quiet=True), self.cache, train=stand_in_train)
        return self

    def specs(self) -> list[TrialSpec]:
        """The default trial of every cell."""
        return [trial_spec(self.plan, cell, 0, {}, self.prepared) for cell in self.plan.cells]

    @property
    def log(self) -> pd.DataFrame:
        return read_log(self.cache)

    def record(self, label: str) -> TrialRecord:
        """Of the only trial with this label."""
        (found,) = [record for record in self.store.records() if record.spec.label == label]
        return found


@pytest.fixture(scope="session")
def stand_in_run(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., StandInRun]:
    def make(labels: list[str], **changes: Any) -> StandInRun:
        return StandInRun(tmp_path_factory.mktemp("run"), labels, **changes)

    return make
