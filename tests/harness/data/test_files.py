"""A task of the study's own, in every format."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas as pd
import pytest
from pydantic import ValidationError

from harness.data.roles import class_notes, cut_roles
from harness.data.source import load_task
from harness.errors import DataError
from harness.study.data import DataSpec
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


@pytest.mark.parametrize("name", ["fit", "report", "teacher", "train_surplus", "../elsewhere"])
def test_a_split_cannot_be_called_as_a_role(name: str) -> None:
    content = task("csv").model_dump()
    content["files"][name] = "test.csv"
    with pytest.raises(ValidationError, match="files cannot call a split"):
        TaskSpec.model_validate(content)


def test_a_json_file_may_be_one_list_of_objects(tmp_path: Path) -> None:
    write(tmp_path, "jsonl")
    for name in ("train", "test"):
        rows = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows, indent=1))
    listed, lines = (load_task(task(suffix), DataSpec(), tmp_path).train for suffix in ("json", "jsonl"))
    assert (listed.texts, listed.labels.tolist()) == (lines.texts, lines.labels.tolist())
    (tmp_path / "train.json").write_text('[{"body": "x", "kind": "ham"},\n 3]')
    with pytest.raises(DataError, match=r"train\.json, row 1: a JSON object is expected, found int"):
        load_task(task("json"), DataSpec(), tmp_path)


def test_a_table_that_another_program_quoted_is_said(tmp_path: Path) -> None:
    """As text, or as the reason of an error that follows from it."""
    frame = pd.DataFrame(ROWS, columns=["body", "kind"])
    for name in ("train", "test"):
        quoted = "".join(f'"{body}"\t{kind}\n' for body, kind in ROWS)
        (tmp_path / f"{name}.tsv").write_text("body\tkind\n" + quoted)
    data = load_task(task("tsv"), DataSpec(), tmp_path)
    (note, _) = data.notes
    assert "Most fields of body stand in quotes, which are text in a .tsv file" in note
    assert data.train.texts[0][1] == '"another"'
    frame.to_csv(tmp_path / "train.tsv", sep="\t", index=False, quoting=csv.QUOTE_ALL)
    with pytest.raises(DataError, match=r"missing \['body', 'kind'\], found .* stand in quotes.*save the table as \.csv"):
        load_task(task("tsv"), DataSpec(), tmp_path)
    write(tmp_path, "tsv")
    assert not load_task(task("tsv"), DataSpec(), tmp_path).notes


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ([0.5, 2.25, 3.0], "label 0.5 is none of .*: regression is not supported"),
        ([["ham"], ["spam"], ["ham", "spam"]], r"holds \['ham'\]: several labels a row are not supported"),
        (["ham", "spam, ham", "ham"], "label 'spam, ham' is none of .*: several labels a row are not supported"),
        (["ham", "['spam', 'ham']", "ham"], "several labels a row are not supported"),
        (["ham", "spm", "ham"], "label 'spm' is none of .* Did you mean 'spam'"),
    ],
)
def test_what_is_no_class_is_told_apart(tmp_path: Path, kinds: list[object], said: str) -> None:
    for name in ("train", "test"):
        pd.DataFrame({"body": [body for body, _ in ROWS], "kind": kinds}).to_json(
            tmp_path / f"{name}.jsonl", orient="records", lines=True
        )
    with pytest.raises(DataError, match=said):
        load_task(task("jsonl"), DataSpec(), tmp_path)


def test_a_class_without_rows_is_refused_in_train_and_said_elsewhere(tmp_path: Path) -> None:
    rows = [(f"text {k}", "ham" if k % 2 else "spam") for k in range(40)]
    pd.DataFrame(rows, columns=["body", "kind"]).to_csv(tmp_path / "train.csv", index=False)
    pd.DataFrame(rows[:1], columns=["body", "kind"]).to_csv(tmp_path / "test.csv", index=False)
    own = task("csv")
    data = load_task(own, DataSpec(), tmp_path)
    assert class_notes(own, data, cut_roles(data, DataSpec(), 2)) == ["none of the 1 validation rows of mail is labelled ham"]
    more = own.model_copy(update={"labels": ["ham", "spam", "eggs", "toast"]})
    data = load_task(more, DataSpec(), tmp_path)
    with pytest.raises(
        DataError, match="none of the 40 training rows of mail is labelled eggs or toast, and `labels` names them"
    ):
        class_notes(more, data, cut_roles(data, DataSpec(), 4))
