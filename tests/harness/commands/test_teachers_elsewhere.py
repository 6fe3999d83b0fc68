"""Teachers from elsewhere at the command line: what is refused, and the verb that writes their files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from harness.__main__ import main
from harness.cache import cache_folder
from harness.report import Report
from harness.store.prediction_table import to_frame
from harness.store.store import Store
from tests.harness.small_models import MINILM
from tests.harness.teachers.elsewhere import LABELS, TASK, easy_task, save_random_checkpoint
from tests.harness.tiny import STUDENT, TEACHER

LIVE = {"name": "live", "config": TEACHER, "training": {"epochs": 1, "learning_rate": 1e-3}}
ROWS = 160

Refused = Callable[..., str]


def write_study(folder: Path, *teachers: dict[str, Any], **changes: Any) -> Path:
    content = {
        "name": "elsewhere",
        "tasks": [easy_task(folder)],
        "strategies": ["fixed_alpha"],
        "data": {"max_length": 16},
        "models": {"student": {"config": STUDENT, "dropout": 0.0}, "teachers": list(teachers)},
        "training": {"epochs": 1, "batch_size": 32, "learning_rate": 1e-3},
        "search": {"trials": 1, "repeats": 1},
        "resources": {"engine": "inline", "checkpoint_seconds": 0},
        "results": str(folder / "results"),
    }
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))
    return file


def expect(said: str, message: str) -> None:
    assert re.search(message, said), said


def outputs(**changes: Any) -> pd.DataFrame:
    values = np.random.default_rng(0).normal(size=(ROWS, 3))
    return pd.DataFrame({"idx": np.arange(ROWS), **{label: values[:, k] for k, label in enumerate(LABELS)}}).assign(**changes)


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refused:
    """What a run says of a teacher beside one that would be trained: one line, exit code 2, and nothing was trained."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))

    def run(teacher: dict[str, Any], **changes: Any) -> str:
        study = write_study(tmp_path, LIVE, {"name": "theirs", **teacher}, **changes)
        capsys.readouterr()  # what making the checkpoint wrote
        assert main(["run", str(study), "--quiet"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert said.count("\n") == 1
        assert not list((tmp_path / "cache").glob("teachers/*"))
        return said

    return run


def stored(file: str = "train.parquet", **more: Any) -> dict[str, Any]:
    return {"outputs": {TASK: {"train": file}}, **more}


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"fine_tunde": {TASK: "x"}}, r"unknown key 'fine_tunde'. Did you mean 'fine_tuned'\?"),
        ({}, "one of `model`, `config`, `fine_tuned` and `outputs`"),
        ({"model": MINILM, "fine_tuned": {TASK: "x"}}, "not `model` and `fine_tuned` together"),
        ({"fine_tuned": {TASK: "x"}, "layers": [0]}, "`layers` means nothing for a teacher with `fine_tuned`"),
        ({"fine_tuned": {TASK: "x"}, "training": {"epochs": 9}}, "only `precision` may be given, not 'epochs'"),
        ({"model": MINILM, "labels": {TASK: LABELS}}, "`labels` means nothing for a teacher with `model`"),
        ({"fine_tuned": {"relatoin": "x"}}, r"'relatoin' is not a task of this study. Did you mean 'relation'\?"),
        ({"fine_tuned": {TASK: "./nowhere"}}, "no such directory"),
        ({"fine_tuned": {TASK: MINILM}}, "no classification head in its weights.*give it as `model:`"),
        ({"outputs": {TASK: {"train": "t.parquet"}}, "tokenizer": "words"}, "`tokenizer` means nothing for a teacher with"),
        ({"outputs": {TASK: {"validation": "train.parquet"}}}, "`train` is missing"),
        (
            {"outputs": {TASK: {"train": "train.parquet", "validaton": "x.parquet"}}},
            "'validaton' is no split of relation. Did you mean 'validation'",
        ),
        (stored("trian.parquet"), r"no file 'trian.parquet' \(did you mean 'train.parquet'\?\)"),
        (stored("study.yaml"), "no file of outputs; allowed are .parquet and .npy"),
        (stored("train.npy"), r"have no names.*`labels: \{relation: \[entailment, neutral, contradiction\]\}`"),
        (
            stored("train.npy", labels={TASK: ["entailment", "neutrl", "contradiction"]}),
            "'neutrl' is none.*Did you mean 'neutral'",
        ),
        (stored(labels={TASK: LABELS}), "`labels` is for .npy files"),
        (stored(output_kind="probability"), r"'probability' is not allowed. Did you mean 'probabilities'\?"),
    ],
)
def test_a_study_that_cannot_be_right_is_refused(
    refused: Refused, tmp_path: Path, teacher: dict[str, Any], message: str
) -> None:
    outputs().to_parquet(tmp_path / "train.parquet", index=False)
    np.save(tmp_path / "train.npy", np.zeros((ROWS, 3)))
    expect(refused(teacher), message)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (outputs().rename(columns={"neutral": "neutrall"}), "'neutrall' is none of the task's classes. Did you mean 'neutral'"),
        (outputs().rename(columns={"neutral": "1"}), "'1' is none of the task's classes"),
        (outputs().drop(columns="neutral"), "the task's class 'neutral' is missing"),
        (outputs(extra=0.0), "'extra' is none of the task's classes"),
        (outputs().iloc[1:], "1 of the 160 rows that the study uses have no outputs, first idx 0"),
        (pd.concat([outputs(), outputs().iloc[:1]]), "idx 0 is there more than once"),
        (outputs(idx=np.arange(ROWS) + 1), "idx 160 is no row of the split, whose ids go from 0 to 159"),
        (outputs(idx=np.arange(ROWS) + 0.5), "the column 'idx' holds float64"),
        (outputs().drop(columns="idx").iloc[1:], "159 lines, and the split has 160 rows"),
        (outputs(neutral=[np.nan, *np.zeros(ROWS - 1)]), r"the outputs of idx 0 \(.*nan.*\) are not finite"),
        (outputs(neutral=["high"] * ROWS), "the column 'neutral' holds .*, and numbers are expected"),
        (outputs(entailment=0.2, neutral=0.3, contradiction=0.5), "say `output_kind: probabilities`"),
    ],
)
def test_files_that_are_not_a_teacher_s_are_refused(
    refused: Refused, tmp_path: Path, frame: pd.DataFrame, message: str
) -> None:
    frame.to_parquet(tmp_path / "train.parquet", index=False)
    expect(refused(stored()), message)


def test_more_files_that_are_not_a_teacher_s_are_refused(refused: Refused, tmp_path: Path) -> None:
    outputs().to_parquet(tmp_path / "train.parquet", index=False)
    expect(refused(stored(output_kind="probabilities")), "no probabilities.*say `output_kind: logits`")
    (tmp_path / "train.parquet").write_text("no Parquet")
    expect(refused(stored()), "not a readable Parquet file")
    labels = {TASK: LABELS}
    np.save(tmp_path / "train.npy", np.zeros((ROWS, 2)))
    expect(refused(stored("train.npy", labels=labels)), r"an array of shape \[160, 2\], and \[rows, 3\] is expected")
    np.save(tmp_path / "train.npy", np.zeros((10, 3)))
    expect(refused(stored("train.npy", labels=labels)), "10 lines, and the split has 160 rows")
    np.save(tmp_path / "train.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    expect(refused(stored("train.npy", labels=labels)), "not a readable array")


def test_what_files_cannot_give_is_refused(refused: Refused, tmp_path: Path) -> None:
    outputs().to_parquet(tmp_path / "train.parquet", index=False)
    only = {"name": "universal_kd", "teachers": ["theirs"]}
    expect(refused(stored(), strategies=[only]), "'universal_kd': it wants .* of its teachers, and 'theirs' has stored outputs")
    vague = stored(output_kind="probabilities")
    said = refused(vague, strategies=[{"name": "annealing_kd", "teachers": ["theirs"]}])
    expect(said, "compare logits themselves, and the probabilities of 'theirs' leave open")
    twice = {"name": "sst2_again", "rows_of": "sst2"}
    said = refused(stored(), tasks=[easy_task(tmp_path), twice])
    expect(said, "'theirs' has nothing for the task 'sst2_again'.*it has relation")


@pytest.mark.parametrize(
    ("names", "labels", "message"),
    [
        (("LABEL_0", "LABEL_1", "LABEL_2"), None, "calls its outputs LABEL_0, LABEL_1, LABEL_2.*name them in their order"),
        (("LABEL_0", "LABEL_1"), None, "has 2 outputs .* and the task has 3 classes"),
        (("negative", "neutral", "positive"), None, "'negative' is none of the task's classes.*Say which is which"),
        (tuple(LABELS), LABELS[::-1], "`labels` says .* and its own config.json says"),
        (tuple(LABELS), LABELS[:2], "the task's class 'contradiction' is missing"),
    ],
)
def test_checkpoints_whose_classes_are_not_known_are_refused(
    refused: Refused, tmp_path: Path, names: tuple[str, ...], labels: list[str] | None, message: str
) -> None:
    folder = save_random_checkpoint(tmp_path / "theirs", names)
    expect(refused({"fine_tuned": {TASK: str(folder)}, **({"labels": {TASK: labels}} if labels else {})}), message)


def test_a_checkpoint_that_is_not_whole_is_refused(refused: Refused, tmp_path: Path) -> None:
    folder = save_random_checkpoint(tmp_path / "theirs", LABELS)
    teacher = {"fine_tuned": {TASK: str(folder)}}
    (folder / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    expect(refused(teacher), "has no tokenizer")
    (tmp_path / "tokenizer.json").rename(folder / "tokenizer.json")
    (folder / "model.safetensors").unlink()
    expect(refused(teacher), "has no weights; weights are read from model.safetensors alone")
    (folder / "config.json").unlink()
    expect(refused(teacher), "no config.json")


def test_a_study_s_teachers_become_files_that_another_study_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("harness.report.build_report", lambda path: Report(path, (), (), ""))
    monkeypatch.setattr("harness.report.terminal.printed", lambda board, only=(): board)
    study = write_study(tmp_path, LIVE)
    assert main(["teacher-outputs", str(study)]) == 0
    said = capsys.readouterr().out
    entries = yaml.safe_load(said[said.index("teachers:") :])["teachers"]
    assert set(entries[0]["outputs"][TASK]) == {"train", "validation"}
    assert main(["teacher-outputs", str(study)]) == 2
    assert "exists" in capsys.readouterr().err

    assert main(["run", str(study), "--quiet"]) == 0
    trained_here = Store(tmp_path / "results" / "elsewhere")
    (first,) = trained_here.records()
    again = write_study(tmp_path, *entries, name="again")
    assert main(["run", str(again), "--quiet"]) == 0
    store = Store(tmp_path / "results" / "again")
    (second,) = store.records()
    assert (second.objective, second.report) == (first.objective, first.report)
    assert second.teacher_report == first.teacher_report
    assert {"fit", "select", "validation"} <= set(second.teacher_report[0])
    kept = []
    for one, record in ((trained_here, first), (store, second)):
        assert one.teachers() == record.teacher_names
        kept.append(to_frame(one.teacher_table(record.teacher_names[0])))
        right = kept[-1]["label"] == kept[-1]["predicted"]
        assert {split: float(right[rows.index].mean()) for split, rows in kept[-1].groupby("split")} == {
            "validation": record.teacher_report[0]["validation"].metrics["accuracy"]
        }
    pd.testing.assert_frame_equal(*kept)
    np.testing.assert_allclose(kept[0].filter(regex=r"p\d").sum(axis=1), 1.0, atol=2e-3)
    trained = {json.loads(file.read_text())["precision"] for file in cache_folder().glob("teachers/*/teacher.json")}
    assert trained == {"fp32", "stored"}
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", str(store.path), second.key]) == 0
