"""The copy that optuna-dashboard opens, against the search that it is a copy of."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest

from harness.engine import inline
from harness.records import TrialRecord
from harness.store.store import Store
from harness.watching.console import Console
from harness.watching.optuna_storage import OptunaStorage
from tests.harness.engine.stand_in import stand_in_plan, stand_in_study, stand_in_train


def run(folder: Path, labels: list[str], **search: Any) -> Store:
    plan, prepared = stand_in_plan(stand_in_study(labels, search={"trials": 5, **search}))
    store = Store(folder / "store")
    (folder / "cache").mkdir(exist_ok=True)
    inline.run_plan(plan, prepared, store, Console(quiet=True), folder / "cache", train=stand_in_train)
    return store


def compare(store: Store, labels: tuple[str, ...] = (), trials: int = 5) -> None:
    """All cells' trials are in the storage, with the store's numbers."""
    storage = f"sqlite:///{store.path}/optuna.db"
    by_cell: dict[str, list[TrialRecord]] = {}
    for record in store.records():
        if (labels and record.spec.label not in labels) or record.spec.index >= trials:
            continue
        by_cell.setdefault(record.spec.cell_id, []).append(record)
    assert sorted(optuna.get_all_study_names(storage)) == sorted(by_cell)
    for cell, records in by_cell.items():
        study = optuna.load_study(study_name=cell, storage=storage)
        assert [trial.user_attrs["key"] for trial in study.trials] == [record.key for record in records]
        for trial, record in zip(study.trials, records, strict=True):
            assert trial.value == record.objective
            assert trial.state.name == ("FAIL" if record.objective is None else "COMPLETE")
            assert trial.params["training.temperature"] == record.spec.training.temperature


def test_the_storage_holds_what_the_searches_know(tmp_path: Path) -> None:
    compare(run(tmp_path, ["plain", "other", "nan", "raises"]))
    compare(run(tmp_path, ["plain", "other", "nan", "raises"]))  # from the store, and made anew: nothing is there twice


def rows(store: Store) -> list[tuple[int, str]]:
    """Their number in the file grows with each one that is written."""
    with closing(sqlite3.connect(store.path / "optuna.db")) as file:
        return list(
            file.execute("SELECT trial_id, value_json FROM trials JOIN trial_user_attributes USING (trial_id) ORDER BY 1")
        )


def test_what_the_file_holds_is_not_written_again(tmp_path: Path) -> None:
    before = rows(run(tmp_path, ["plain", "other", "nan"]))
    assert rows(run(tmp_path, ["plain", "other", "nan"])) == before
    store = run(tmp_path, ["plain", "other", "nan"], trials=6)
    assert rows(store)[: len(before)] == before
    assert len(rows(store)) == len(before) + 6  # a key and an index of each
    compare(store, trials=6)
    compare(run(tmp_path, ["plain", "nan"], trials=3), labels=("plain", "nan"), trials=3)


def test_other_ranges_start_a_cell_anew(tmp_path: Path) -> None:
    run(tmp_path, ["plain"])
    wider = {"temperature": {"type": "float", "low": 1.0, "high": 9.0}}
    store = run(tmp_path, ["plain"], space=wider)
    (cell,) = optuna.get_all_study_summaries(f"sqlite:///{store.path}/optuna.db")
    assert cell.n_trials == 5
    study = optuna.load_study(study_name=cell.study_name, storage=f"sqlite:///{store.path}/optuna.db")
    assert {one.distributions["training.temperature"].high for one in study.trials} == {9.0}


@pytest.mark.parametrize("content", [b"no database", b""])
def test_a_file_of_another_kind_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "optuna.db").write_bytes(content)
    compare(run(tmp_path, ["plain"]))


def test_it_can_be_read_while_the_study_runs(tmp_path: Path) -> None:
    plan, _ = stand_in_plan(stand_in_study(["a"]))
    storage = OptunaStorage(tmp_path / "optuna.db")
    assert not (tmp_path / "optuna.db").exists()
    from harness.plan.plan import trial_spec
    from harness.plan.search import CellSearch

    search = CellSearch.for_cell(plan, plan.cells[0])
    _, prepared = stand_in_plan(plan.study)
    search.ask()
    ((_, told),) = search.tell(0, 0.5)
    spec = trial_spec(plan, plan.cells[0], 0, {}, prepared)
    storage.told("sst2/a/0", spec, told)
    assert optuna.load_study(study_name="sst2/a/0", storage=f"sqlite:///{tmp_path}/optuna.db").best_value == 0.5
    storage.close()


def test_a_storage_that_cannot_be_written_does_not_end_the_study(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader holds the file for longer than we wait."""
    monkeypatch.setattr("harness.watching.optuna_storage._WAIT_SECONDS", 0.1)
    monkeypatch.setattr("time.sleep", lambda _: None)  # Optuna's, a second between its own tries
    plan, prepared = stand_in_plan(stand_in_study(["a"]))
    from harness.plan.plan import trial_spec
    from harness.plan.search import CellSearch

    search = CellSearch.for_cell(plan, plan.cells[0])
    storage = OptunaStorage(tmp_path / "optuna.db")
    spec = trial_spec(plan, plan.cells[0], 0, {}, prepared)
    search.ask()
    ((_, told),) = search.tell(0, 0.5)
    storage.told("sst2/a/0", spec, told)
    with sqlite3.connect(tmp_path / "optuna.db", isolation_level=None) as reader:
        reader.execute("BEGIN EXCLUSIVE")
        storage.told("sst2/a/0", spec, told)
        reader.execute("ROLLBACK")
    reader.close()
    assert "is not kept any further" in caplog.text
    storage.told("sst2/a/0", spec, told)  # nor tried again
    storage.close()
    assert len(optuna.load_study(study_name="sst2/a/0", storage=f"sqlite:///{tmp_path}/optuna.db").trials) == 1


def test_a_folder_in_the_place_of_the_file_does_not_end_the_study(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "optuna.db").mkdir()
    plan, prepared = stand_in_plan(stand_in_study(["a"]))
    from harness.plan.plan import trial_spec
    from harness.plan.search import CellSearch

    search = CellSearch.for_cell(plan, plan.cells[0])
    storage = OptunaStorage(tmp_path / "optuna.db")
    search.ask()
    storage.told("sst2/a/0", trial_spec(plan, plan.cells[0], 0, {}, prepared), search.tell(0, 0.5)[0][1])
    storage.close()
    assert "is not kept any further" in caplog.text
    assert list((tmp_path / "optuna.db").iterdir()) == []
