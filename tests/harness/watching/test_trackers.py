"""What trackers keep of a study, read back from their local stores."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.engine import inline
from harness.errors import StudyError
from harness.plan.plan import make_plan
from harness.records import TrialRecord
from harness.store.store import Store
from harness.watching import trackers
from harness.watching.console import Console
from harness.watching.tensorboard import scalars
from harness.watching.trackers import Tracker
from tests.harness.tiny import prepared_plan, tiny_study

pytestmark = pytest.mark.filterwarnings("default")  # those of the trackers are not ours


def run_with(folder: Path, *watch: str, **changes: Any) -> tuple[list[TrialRecord], list[str]]:
    """Records of a study of two cells, and what the terminal said."""
    study = tiny_study(strategies=["fixed_alpha", "ce_only"], watch=list(watch), **changes)
    plan, prepared = prepared_plan(study, folder / "cache")
    store, said = Store(folder / "store"), list[str]()
    console = Console(quiet=True)
    console.note = said.append  # type: ignore[method-assign]
    inline.run_plan(plan, prepared, store, console, folder / "cache")
    return list(store.records()), said


def curves(record: TrialRecord) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for epoch in record.epochs:
        for name, value in scalars(epoch):
            found.setdefault(name, []).append((epoch.epoch + 1, value))
    return found


@pytest.mark.slow
def test_mlflow_has_a_run_of_every_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    records, said = run_with(tmp_path, "mlflow")
    assert not [line for line in said if "mlflow" in line]
    client = MlflowClient()
    experiment = client.get_experiment_by_name("tiny")
    runs = {run.data.tags["cell"]: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {record.spec.cell_id for record in records}
    for record in records:
        run = runs[record.spec.cell_id]
        assert run.info.status == "FINISHED"
        assert run.data.params["key"] == record.key
        assert run.data.params["training.learning_rate"] == "0.001"
        for name, points in curves(record).items():
            kept = client.get_metric_history(run.info.run_id, name)
            assert [(one.step, one.value) for one in kept] == points
        assert run.data.metrics["report/validation/accuracy"] == record.report["validation"].metrics["accuracy"]
        assert run.data.metrics["objective"] == record.objective


def test_trackio_has_a_run_of_every_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio")
    records, said = run_with(tmp_path, "trackio")
    assert not [line for line in said if "trackio" in line]
    configurations = {one["key"]: (run, one) for run, one in SQLiteStorage.get_all_run_configs("tiny").items()}
    assert set(configurations) == {record.key for record in records}
    for record in records:
        run, configuration = configurations[record.key]
        assert configuration["_Group"] == record.spec.cell_id
        logs = SQLiteStorage.get_logs("tiny", run_id=run)
        for metric, points in curves(record).items():
            assert [(one["step"], one[metric]) for one in logs if metric in one] == points
        assert logs[-1]["report/validation/accuracy"] == record.report["validation"].metrics["accuracy"]


@pytest.mark.slow
def test_wandb_has_a_run_of_every_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name, value in (("MODE", "offline"), ("DIR", str(tmp_path))):
        monkeypatch.setenv(f"WANDB_{name}", value)
    records, said = run_with(tmp_path, "wandb")
    assert not [line for line in said if "wandb" in line]
    written = [file.read_bytes() for file in tmp_path.glob("wandb/offline-run-*/run-*.wandb")]
    assert len(written) == len(records)
    for record in records:
        (own,) = [content for content in written if record.key.encode() in content]
        for text in (record.spec.cell_id, "select/accuracy", "report/validation/accuracy"):
            assert text.encode() in own


class _Failing:
    """A service that is gone after its first run was opened."""

    def __init__(self) -> None:
        self.opened = 0

    def open(self, spec: Any, values: Mapping[str, Any]) -> int:
        self.opened += 1
        return self.opened

    def log(self, run: Any, values: dict[str, float], step: int) -> None:
        raise ConnectionError("no route\nto host")

    def end(self, run: Any, values: dict[str, float], ok: bool) -> None:
        raise AssertionError("it was given up")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> _Failing:
    service = _Failing()
    monkeypatch.setitem(trackers._SERVICES, "mlflow", lambda: service)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: name == "mlflow" or found(name, *more))
    return service


def test_one_that_fails_is_said_once_and_stops_no_trial(tmp_path: Path, failing: _Failing) -> None:
    records, said = run_with(tmp_path, "mlflow")
    assert [record.status for record in records] == ["ok", "ok"]
    (line,) = [line for line in said if "mlflow" in line]
    assert line == "mlflow gets no more of this study, which goes on without it: ConnectionError: no route to host"
    assert failing.opened <= 2


def test_one_that_hangs_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failing: _Failing) -> None:
    monkeypatch.setattr(trackers, "LAST_WORDS_SECONDS", 0.2)
    monkeypatch.setattr(failing, "open", lambda *_: time.sleep(5))
    records, said = run_with(tmp_path, "mlflow", training={"epochs": 1})
    assert [record.status for record in records] == ["ok", "ok"]
    assert "mlflow gets no more of this study, which goes on without it: not done after 0 s" in said


def test_runs_of_an_interrupted_study_are_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failing: _Failing) -> None:
    ended: list[bool] = []
    monkeypatch.setattr(failing, "end", lambda run, values, ok: ended.append(ok))
    plan, _ = prepared_plan(tiny_study(), tmp_path)
    (spec,) = [record.spec for record in run_with(tmp_path / "run")[0] if record.spec.label == "fixed_alpha"]
    tracker = Tracker("mlflow", pytest.fail)
    tracker.started(spec)
    tracker.close()
    assert ended == [False]
    assert len(plan.cells) == 1


def test_one_that_is_not_installed_is_refused_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "wandb" else found(name, *more))
    with pytest.raises(StudyError, match=r"'wandb' is not installed here: python -m pip install -e '\.\[wandb\]'"):
        make_plan(tiny_study(watch=["wandb"]), Path.cwd())
