"""`reproduce` and `merge`, on a real study."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.__main__ import main
from harness.records import ErrorRecord
from harness.report import Report
from harness.store.store import Store
from harness.study.schema import PROTOCOL_VERSION, EarlyStopping
from tests.harness.report.stores import Planted, build_store


@pytest.fixture
def results(study_file, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("harness.report.build_report", lambda path: Report(path, (), (), ""))
    monkeypatch.setattr("harness.report.terminal.printed", lambda board, only=(): board)
    assert main(["run", str(study_file(strategies=["ce_only", "rw_kd"])), "--quiet"]) == 0
    return tmp_path / "results" / "tiny"


def test_a_row_comes_out_the_same_and_a_changed_one_does_not(results, capsys):
    assert main(["reproduce", str(results), "sst2/rw_kd"]) == 0
    assert "The number came out the same." in capsys.readouterr().out
    store = Store(results)
    record = next(record for record in store.records() if record.spec.label == "ce_only")
    spec = record.spec.model_copy(update={"harness_code": "0123456789abcdef"})
    other = {"objective": 0.123, "spec": spec, "teacher_contents": ["other"]}
    store.write(record.model_copy(update=other), store.predictions(record.key))
    assert main(["reproduce", str(results), "sst2/ce_only/0"]) == 1
    said = capsys.readouterr().out
    assert "0.123000 stored" in said
    assert "the harness's code" in said
    assert "what its teachers say" in said
    assert f"commit {store.manifest()['git']['commit']}" in said
    assert main(["reproduce", str(results), "sst2/wsl"]) == 2
    assert "strategies: ce_only, rw_kd" in capsys.readouterr().err


def test_a_row_of_another_protocol_is_refused_by_name(results, capsys):
    store = Store(results)
    record = next(record for record in store.records() if record.spec.label == "ce_only")
    older = record.model_copy(update={"spec": record.spec.model_copy(update={"protocol_version": "0.9"})})
    store.write(older, store.predictions(record.key))
    assert main(["reproduce", str(results), "sst2/ce_only/0"]) == 2
    said = capsys.readouterr().err
    assert "made under Protocol 0.9" in said
    assert f"has Protocol {PROTOCOL_VERSION}" in said


def test_a_store_that_lacks_its_study_or_is_not_there_is_refused(tmp_path, capsys):
    store = build_store(tmp_path / "copy", Planted(("sst2",), ("fixed_alpha",), repeats=1, trials=1, rows=20))
    assert main(["reproduce", str(tmp_path / "cpoy"), "sst2/fixed_alpha/0"]) == 2
    assert "does not exist. Did you mean 'copy'?" in capsys.readouterr().err
    (record,) = store.records()
    spec = record.spec.model_copy(update={"protocol_version": PROTOCOL_VERSION})
    store.write(record.model_copy(update={"spec": spec}), store.predictions(record.key))
    (store.path / "manifest.json").unlink()
    assert main(["reproduce", str(store.path), "sst2/fixed_alpha/0"]) == 2
    assert "holds no study that this version" in capsys.readouterr().err


def test_a_row_is_trained_again_from_any_folder(study_file, tmp_path, monkeypatch, capsys):
    """Its data, and a plugin that lies elsewhere on this machine, are found where the study found them."""
    monkeypatch.setattr("harness.report.build_report", lambda path: Report(path, (), (), ""))
    monkeypatch.setattr("harness.report.terminal.printed", lambda board, only=(): board)
    (tmp_path / "mine").mkdir()
    rows = "sentence,label\n" + "".join(f"good film {i},1\nbad film {i},0\n" for i in range(40))
    for name in ("train", "dev"):
        (tmp_path / "mine" / f"{name}.csv").write_text(rows.replace("film", name))
    files = {"train": "mine/train.csv", "validation": "mine/dev.csv"}
    task = {"name": "own", "text": ["sentence"], "labels": ["bad", "good"], "files": files}
    study_file(tasks=[task], strategies=["ce_only"])
    monkeypatch.chdir(tmp_path)
    assert main(["run", "study.yaml", "--quiet", "--set", "results=results"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["reproduce", "../results/tiny", "own/ce_only"]) == 0
    assert "The number came out the same." in capsys.readouterr().out


def test_stores_are_merged(results, tmp_path, capsys):
    assert main(["merge", str(results), "--into", str(tmp_path / "all")]) == 0
    assert "2 trials added" in capsys.readouterr().out
    assert set(Store(tmp_path / "all").keys()) == set(Store(results).keys())


def test_a_trial_that_was_stopped_early_is_trained_up_to_its_stop(results, capsys):
    store = Store(results)
    record = next(record for record in store.records() if record.spec.label == "ce_only")
    cut = {"status": "stopped", "objective": None, "report": {}, "epochs": record.epochs[:1], "stopped_after_epoch": 1}
    rule = EarlyStopping(kind="median")
    store.write(record.model_copy(update={**cut, "early_stopping": rule}), None)
    assert main(["reproduce", str(results), record.key]) == 0
    said = capsys.readouterr().out
    assert "stopped this trial early (median), after epoch 1 of 2: it was trained up to there again" in said
    assert "epoch 1 accuracy: " in said
    assert "epoch 2" not in said


def test_a_failed_trial_is_trained_again_without_a_traceback(results, capsys):
    store = Store(results)
    record = next(record for record in store.records() if record.spec.label == "ce_only")
    error = ErrorRecord(kind="bug", type="KeyError", message="gone")
    store.write(record.model_copy(update={"status": "failed", "objective": None, "report": {}, "error": error}), None)
    assert main(["reproduce", str(results), record.key]) == 1
    assert "stored: failed, KeyError: gone; now: ok" in capsys.readouterr().out
