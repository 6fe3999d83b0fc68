"""A task of the study's own, in every format."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from pydantic import ValidationError

from harness.data.source import load_task
from harness.errors import DataError
from harness.study.schema import DataSpec
from harness.study.tasks import TaskSpec

ROWS = [('a, "quoted" text', "ham"), ("another", "spam"), ("a third", "ham")]


def task(suffix: str) -> TaskSpec:
    files = {"train": f"train.{suffix}", "validation": f"test.{suffix}"}
    return TaskSpec(name="mail", text=["body"], label="kind", labels=["ham", "spam"], metrics=["f1"], files=files)


def write(folder: Path, suffix: str) -> None:
    frame = pd.DataFrame(ROWS, columns=["body", "kind"])
    for name in ("train", "test"):
        file = folder / f"{name}.{suffix}"
        if suffix == "parquet":
            frame.assign(kind=frame["kind"].map({"ham": 0, "spam": 1})).to_parquet(file)
        elif suffix == "jsonl":
            file.write_text("".join(json.dumps({"body": body, "kind": kind}) + "\n" for body, kind in ROWS))
        elif suffix == "csv":
            frame.to_csv(file, index=False)
        else:
            file.write_text("body\tkind\n" + "".join(f"{body}\t{kind}\n" for body, kind in ROWS))


@pytest.mark.parametrize("suffix", ["parquet", "csv", "tsv", "jsonl"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, suffix)
    data = load_task(task(suffix), DataSpec(), tmp_path)
    assert data.train.texts[0] == [body for body, _ in ROWS]
    assert data.train.labels.tolist() == [0, 1, 0]
    assert list(data.report) == ["validation"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_task(task("csv"), DataSpec(), tmp_path)
    for name in ("train", "test"):
        (tmp_path / f"{name}.xlsx").touch()
    with pytest.raises(DataError, match=r"'\.xlsx' are not read; allowed: \.parquet"):
        load_task(task("xlsx"), DataSpec(), tmp_path)
    (tmp_path / "test.jsonl").write_text('{"body": "x", "kind": "ham"}\n')
    (tmp_path / "train.jsonl").write_text('{"body": "x", "kind": "ham"}\n{broken\n')
    with pytest.raises(DataError, match=r"train\.jsonl, line 2: not JSON"):
        load_task(task("jsonl"), DataSpec(), tmp_path)


def test_a_task_without_files_must_be_glues(tmp_path: Path) -> None:
    own = TaskSpec(name="mail", text=["body"], labels=["ham", "spam"])
    with pytest.raises(DataError, match="names no `files`"):
        load_task(own, DataSpec(), tmp_path)


@pytest.mark.parametrize("name", ["fit", "report", "../elsewhere"])
def test_a_split_cannot_be_called_as_a_role(name: str) -> None:
    content = task("csv").model_dump()
    content["files"][name] = "test.csv"
    with pytest.raises(ValidationError, match="files cannot call a split"):
        TaskSpec.model_validate(content)
