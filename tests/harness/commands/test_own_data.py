"""Data of one's own and of the hub at the command line: what cannot be right is one sentence, before anything is trained."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from harness.__main__ import main
from tests.harness.tiny import STUDENT, TEACHER

TASK = {"name": "mail", "text": ["body"], "label": "kind", "labels": ["ham", "spam"]}
FRAME = pd.DataFrame(
    {
        "body": [f"{'buy' if k % 2 else 'meet'} at {k}" for k in range(60)],
        "kind": ["spam" if k % 2 else "ham" for k in range(60)],
        "score": [k * 0.37 for k in range(60)],
        "tags": [["ham"], ["ham", "spam"]] * 30,
        "number": range(60),
    }
)
HUB = {"source": "hub", "dataset": "hub"}

Said = Callable[..., str]


@pytest.fixture
def said(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Said:
    """Runs a study on FRAME's rows, as files and as a repository of the hub; returns its error, one line, exit code 2."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "hub").mkdir()
    for split in ("train", "validation"):
        FRAME.drop(columns="tags").to_csv(tmp_path / f"{split}.csv", index=False)
        FRAME.to_json(tmp_path / f"{split}.jsonl", orient="records", lines=True)
        FRAME.to_parquet(tmp_path / f"{split}.parquet")
        FRAME.to_parquet(tmp_path / "hub" / f"{split}.parquet")
        FRAME[["body", "kind"]].to_csv(tmp_path / f"{split}.tsv", index=False, sep="\t", quoting=csv.QUOTE_ALL)

    def run(task: Any, kind: str = "csv", **changes: Any) -> str:
        files = {split: f"{split}.{kind}" for split in ("train", "validation")}
        own = isinstance(task, dict) and "dataset" not in changes.get("data", {})
        content = {
            "name": "own",
            "tasks": [{"files": files, **task} if own else task],
            "strategies": ["ce_only"],
            "models": {"student": {"config": STUDENT}, "teachers": [{"config": TEACHER, "training": {"epochs": 1}}]},
            "training": {"epochs": 1},
            "resources": {"engine": "inline"},
            "results": str(tmp_path / "results"),
            **changes,
        }
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        assert main(["run", str(tmp_path / "study.yaml"), "--quiet"]) == 2
        line = capsys.readouterr().err
        assert line.startswith("error: ")
        assert line.count("\n") == 1
        assert not list((tmp_path / "cache").glob("teachers/*"))
        return line

    return run


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"text": None}, "csv", "the key 'text' is missing: one or two columns of text"),
        ({"labels": None}, "csv", "the key 'labels' is missing: the names of the classes"),
        ({"labels": ["ham"]}, "csv", r"labels: two classes or more, each once, got \['ham'\]"),
        ({"labels": ["ham", "spam", "eggs"]}, "csv", "none of the 60 training rows of mail is labelled eggs"),
        ({"labels": ["ham", "spma"]}, "csv", "line 3: label 'spam' is none of .* Did you mean 'spma'"),
        ({"text": ["bdoy"]}, "csv", r"missing \['bdoy'\], found \['body', 'kind', .*Did you mean 'body'"),
        ({"label": "score"}, "csv", "regression is not supported"),
        ({"label": "score"}, "parquet", "regression is not supported"),
        ({"label": "tags"}, "jsonl", "several labels a row are not supported"),
        ({"label": "tags"}, "parquet", "several labels a row are not supported"),
        ({}, "tsv", "stand in quotes, which are text in a .tsv file"),
        ({}, "xlsx", "no such file"),
        ({"files": {"train": "train.csv"}}, "csv", "files needs `train` and `validation`"),
        (
            {"files": {"train": "train.csv", "validation": "validaton.csv"}},
            "csv",
            "no such file. Did you mean 'validation\\.csv",
        ),
        ({"flies": {}}, "csv", "unknown key 'flies'. Did you mean 'files'"),
    ],
)
def test_own_files_that_cannot_be_right(said: Said, change: dict[str, Any], kind: str, message: str) -> None:
    task = {name: value for name, value in {**TASK, **change}.items() if value is not None}
    line = said(task, kind)
    assert re.search(message, line), line


@pytest.mark.parametrize(
    ("task", "data", "message"),
    [
        ("mail", {}, "which column holds the label"),
        ({"name": "mail", "label": "knid"}, {}, "no column 'knid'. Did you mean 'kind'"),
        ({"name": "mail", "text": ["body"], "label": "score"}, {}, "regression is not supported"),
        ({**TASK, "label": "score"}, {}, "regression is not supported"),
        ({"name": "mail", "text": ["body"], "label": "tags"}, {}, "several labels a row are not supported"),
        ({**TASK, "label": "tags"}, {}, "several labels a row are not supported"),
        ({"name": "mail", "text": ["body"], "label": "number"}, {}, "60 different values in 60 rows, which are no classes"),
        ("mail", {"splits": {"train": "trian", "validation": "validation"}}, "'?\"?trian.*Did you mean 'train'"),
        ("mail", {"config": "en"}, "'en' not found"),
        ("mail", {"dataset": "nobody/nothing"}, "the data set 'nobody/nothing' cannot be had from the hub"),
        ("mail", {"datasets": "x"}, "unknown key 'datasets'. Did you mean 'dataset'"),
        ("mail", {"source": "directory"}, "`dataset` is for rows of the hub"),
        ("cola", {}, "'cola' is GLUE's own task"),
    ],
)
def test_a_data_set_of_the_hub_that_cannot_be_right(said: Said, task: Any, data: dict[str, Any], message: str) -> None:
    line = said(task, data={**HUB, **data})
    assert re.search(message, line), line


def test_an_unknown_task_and_an_unknown_tracker(said: Said) -> None:
    assert "`data: {dataset: OWNER/NAME}`" in said("cloa")
    assert "Did you mean 'mlflow'" in said(TASK, watch=["mlfow"])
