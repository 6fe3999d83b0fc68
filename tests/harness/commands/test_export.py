"""A row's student leaves as a folder that transformers reads alone, and says there what the store says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from harness.__main__ import main
from harness.data.source import load_task
from harness.records import ErrorRecord, TrialRecord
from harness.report import Report
from harness.report.find_row import find_record
from harness.store.store import Store
from tests.harness.small_models import MINILM
from tests.harness.tiny import TEACHER, VARIED, default_specs, tiny_study

DISTILBERT = {"model_type": "distilbert", "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, **VARIED}
SPACE = {"learning_rate": {"type": "float", "low": 1e-4, "high": 3e-3}}


def models(**student: Any) -> dict[str, Any]:
    return {"student": student, "teachers": [{"config": TEACHER, "training": {"epochs": 1, "learning_rate": 1e-3}}]}


@pytest.fixture(autouse=True)
def _without_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.report.build_report", lambda path: Report(path, (), (), ""))
    monkeypatch.setattr("harness.report.terminal.printed", lambda board, only=(): board)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results" / "tiny")


def stored_and_reloaded(store: Store, record: TrialRecord, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [rows, classes] of the validation rows, from the store and from the exported folder."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    stored = store.predictions(record.key).set_index("id")
    rows = load_task(record.spec.task, record.spec.data, Path()).report["validation"]
    given = tokenizer(*rows.texts, truncation=True, padding=True, return_tensors="pt")
    assert given["input_ids"].shape[1] <= record.spec.data.max_length
    with torch.no_grad():
        found = model(**given).logits.softmax(-1).numpy()
    return stored.loc[rows.ids, ["p0", "p1"]].to_numpy(), found


def test_the_chosen_students_are_kept_and_leave_without_another_training(study_file, store, tmp_path, monkeypatch):
    search = {"trials": 3, "repeats": 2, "space": SPACE}
    file = study_file(keep_students="chosen", search=search, models=models(config=DISTILBERT))
    assert main(["run", str(file), "--quiet"]) == 0
    chosen = [find_record(store.path, f"sst2/fixed_alpha/{repeat}") for repeat in range(2)]
    assert {folder.name for folder in (store.path / "students").iterdir()} == {record.key for record in chosen}
    assert main(["run", str(file), "--quiet"]) == 0  # all from the store: what was kept stays
    assert len(list((store.path / "students").iterdir())) == 2

    monkeypatch.setattr("harness.training.trial.train_trial", None)
    folder = tmp_path / "student"
    assert main(["export", str(store.path), "sst2/fixed_alpha/best", str(folder)]) == 0
    best = max(chosen, key=lambda record: (record.objective, -record.spec.repeat))
    stored, found = stored_and_reloaded(store, best, folder)
    assert stored[:, 0].std() > 0
    np.testing.assert_allclose(found, stored, atol=1e-3)

    said = pipeline("text-classification", model=str(folder), device="cpu")("a film", truncation=True)
    assert said[0]["label"] in best.spec.task.labels
    config = json.loads((folder / "config.json").read_text())
    assert list(config["id2label"].values()) == best.spec.task.labels
    assert config["problem_type"] == "single_label_classification"
    assert AutoTokenizer.from_pretrained(folder).model_max_length == 32
    assert json.loads((folder / "harness.json").read_text())["key"] == best.key
    card = (folder / "README.md").read_text()
    numbers = yaml.safe_load(card.split("---")[1])["model-index"][0]["results"][0]["metrics"]
    metrics = best.report["validation"].metrics
    assert {one["type"]: one["value"] for one in numbers} == {name: round(value, 4) for name, value in metrics.items()}
    assert "license" not in yaml.safe_load(card.split("---")[1])
    assert str(tmp_path) not in "".join(file.read_text() for file in folder.glob("*.*[nd]"))


@pytest.mark.slow
def test_a_student_that_was_not_kept_is_trained_again_with_its_whole_vocabulary(study_file, store, tmp_path, capsys):
    assert main(["run", str(study_file(models=models(model=MINILM, layers=[0]))), "--quiet"]) == 0
    assert not (store.path / "students").exists()
    (record,) = store.records()
    assert main(["export", str(store.path), record.key, str(tmp_path / "a")]) == 0
    assert "with the stored predictions for all 40 report rows" in capsys.readouterr().out
    stored, found = stored_and_reloaded(store, record, tmp_path / "a")
    np.testing.assert_allclose(found, stored, atol=1e-3)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "a")
    assert model.get_input_embeddings().num_embeddings == 30522
    assert model.config.num_hidden_layers == 1
    assert {file.name for file in (tmp_path / "a").iterdir()} >= {"model.safetensors", "config.json", "tokenizer.json"}
    assert not [file for file in (tmp_path / "a").iterdir() if file.is_dir()]

    predictions = store.predictions(record.key)
    predictions.loc[0, ["p0", "p1"]] = predictions.loc[0, ["p1", "p0"]].to_numpy()
    predictions.loc[0, "predicted"] = 1 - predictions.loc[0, "predicted"]
    store.write(record, predictions)
    capsys.readouterr()
    assert main(["export", str(store.path), record.key, str(tmp_path / "b")]) == 2
    assert "another class for 1 of 40 rows" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
    assert main(["export", str(store.path), record.key, str(tmp_path / "b"), "--allow-difference"]) == 0
    assert "another class for 1 of 40 report rows than the stored one" in (tmp_path / "b" / "README.md").read_text()


def test_what_cannot_be_exported_is_refused_in_a_sentence(study_file, store, tmp_path, capsys):
    assert main(["run", str(study_file()), "--quiet"]) == 0
    (record,) = store.records()
    (tmp_path / "there").mkdir()
    for row, folder, said in (
        (record.key, "there", "exists; name a folder that does not"),
        ("sst2/fixed_alpa/best", "new", "Did you mean 'fixed_alpha'?"),
        ("sst2/fixed_alpha/last", "new", "TASK/STRATEGY/REPEAT"),
    ):
        assert main(["export", str(store.path), row, str(tmp_path / folder)]) == 2
        assert said in capsys.readouterr().err
    error = ErrorRecord(kind="bug", type="KeyError", message="gone")
    store.write(record.model_copy(update={"status": "failed", "objective": None, "report": {}, "error": error}), None)
    assert main(["export", str(store.path), record.key, str(tmp_path / "new")]) == 2
    assert "this trial failed (KeyError: gone), so there is no student" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_best_repeat_is_best_on_select_whatever_the_report_rows_say(study_file, store):
    assert main(["run", str(study_file(search={"trials": 1, "repeats": 2})), "--quiet"]) == 0
    first, second = (find_record(store.path, f"sst2/fixed_alpha/{repeat}") for repeat in range(2))
    score = first.report["validation"]
    for record, objective, accuracy in ((first, 0.6, 1.0), (second, 0.7, 0.1)):
        report = {"validation": score.model_copy(update={"metrics": {**score.metrics, "accuracy": accuracy}})}
        changed = record.model_copy(update={"objective": objective, "report": report})
        store.write(changed, store.predictions(record.key))
    assert find_record(store.path, "sst2/fixed_alpha/best").key == second.key


def test_a_plugin_that_lies_in_a_result_folder_is_not_run_unasked(study_file, store, tmp_path, capsys):
    store.path.mkdir(parents=True)
    plugin = store.path / "plugin.py"
    plugin.write_text(
        "from strategies import register\nfrom strategies.fixed.ce_only import CeOnly\n"
        "@register\nclass Mine(CeOnly):\n    name = 'of_a_store'\n"
    )
    assert main(["run", str(study_file(plugins=[str(plugin)], strategies=["of_a_store"])), "--quiet"]) == 0
    for verb, more in (("reproduce", []), ("export", [str(tmp_path / "student")])):
        assert main([verb, str(store.path), "sst2/of_a_store", *more]) == 2
        assert "--trust-plugin" in capsys.readouterr().err
    assert main(["reproduce", str(store.path), "sst2/of_a_store", "--trust-plugin"]) == 0


def test_keeping_students_changes_no_key(tmp_path):
    keys = [default_specs(tiny_study(keep_students=kept), tmp_path)[0].key for kept in (None, "chosen")]
    assert keys[0] == keys[1]
