"""GLUE from folders: the real Parquet rows beside the project, the hub's file names, and the original download."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from harness.data.rows import TaskData
from harness.data.source import load_task
from harness.errors import DataError
from harness.study.data import DataSpec
from harness.study.tasks import GLUE

ORIGINAL = {
    "cola": ("CoLA", None, ['gj04\t1\t\tHe said "no.', "gj04\t0\t*\tHim says."]),
    "sst2": ("SST-2", "sentence\tlabel", ["good film \t1", 'a "bad one \t0']),
    "mrpc": ("MRPC", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", ["1\t7\t8\tHe ran .\tHe was running .", "0\t9\t10\tA\tB"]),
    "qqp": ("QQP", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", ["5\t1\t2\twhy?\twhy so?\t1", "9\t3\t4\ta\tb\t0"]),
    "qnli": ("QNLI", "index\tquestion\tsentence\tlabel", ["0\twho?\tTom.\tentailment", "1\twho?\tIn May.\tnot_entailment"]),
    "rte": ("RTE", "index\tsentence1\tsentence2\tlabel", ["0\tA b.\tA.\tentailment", "1\tA.\tB.\tnot_entailment"]),
    "mnli": (
        "MNLI",
        "index\tgenre\tsentence1\tsentence2\tgold_label",
        ["0\tfiction\tp\th\tneutral", "1\tfiction\tp\th\tcontradiction", "2\tfiction\tp\th\tentailment"],
    ),
}


def load(name: str, path: Path, **changes: object) -> TaskData:
    return load_task(GLUE[name], DataSpec.model_validate({"source": "directory", "path": str(path), **changes}))


def write_original(root: Path, name: str) -> Path:
    folder, header, lines = ORIGINAL[name]
    (root / folder).mkdir(parents=True)
    text = "\n".join([*([header] if header else []), *lines]) + "\n"
    splits = ["train.tsv", "dev_matched.tsv", "dev_mismatched.tsv"] if name == "mnli" else ["train.tsv", "dev.tsv"]
    for split in splits:
        (root / folder / split).write_text(text)
    return root / folder


@pytest.mark.parametrize("name", GLUE)
def test_the_original_download_is_read_without_quoting(tmp_path: Path, name: str) -> None:
    write_original(tmp_path, name)
    data = load(name, tmp_path)
    lines = ORIGINAL[name][2]
    assert len(data.train) == len(lines)
    assert set(data.report) == ({"validation", "validation_mismatched"} if name == "mnli" else {"validation"})
    assert len(data.train.texts) == len(GLUE[name].text)
    if name == "cola":
        assert data.train.texts[0][0] == 'He said "no.'
        assert data.train.labels.tolist() == [1, 0]
    if name == "mnli":
        assert data.train.labels.tolist() == [1, 2, 0]
    if name == "rte":
        assert data.train.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "train", "validation"),
    [
        ("cola", 8_551, 1_043),
        ("sst2", 67_349, 872),
        ("mrpc", 3_668, 408),
        ("rte", 2_490, 277),
        ("qnli", 12_259, 5_463),
        ("mnli", 15_891, 9_815),
        ("qqp", 21_727, 7_600),
    ],
)
def test_real_rows_in_parquet(real_glue: Path, name: str, train: int, validation: int) -> None:
    data = load(name, real_glue)
    assert len(data.train) == train
    assert {split: len(rows) for split, rows in data.report.items()} == {"validation": validation}
    assert set(data.train.labels.tolist()) == set(range(len(GLUE[name].labels)))
    assert all(text.strip() for text in data.report["validation"].texts[0])


def test_the_hubs_file_names(tmp_path: Path) -> None:
    (tmp_path / "sst2").mkdir()
    frame = pd.DataFrame({"sentence": ["a", "b"], "label": [0, 1], "idx": [7, 3]})
    for split in ("train", "validation"):
        frame.to_parquet(tmp_path / "sst2" / f"{split}-00000-of-00001.parquet")
    assert load("sst2", tmp_path).train.ids.tolist() == [7, 3]


def test_a_broken_line_is_named_or_left_out(tmp_path: Path) -> None:
    folder = write_original(tmp_path, "rte")
    with (folder / "train.tsv").open("a") as file:
        file.write("2\tonly two\n3\tA.\tC.\tentailment\n")
    with pytest.raises(DataError, match=r"train\.tsv, line 4: 2 fields where 4 are expected.*broken_rows: drop"):
        load("rte", tmp_path)
    data = load("rte", tmp_path, broken_rows="drop")
    assert data.train.texts[1][-1] == "C."
    assert data.train.ids.tolist() == [2, 3, 5]


def test_a_label_outside_the_set_is_named_with_its_line(tmp_path: Path) -> None:
    folder = write_original(tmp_path, "rte")
    with (folder / "dev.tsv").open("a") as file:
        file.write("2\tA\tB\tperhaps\n")
    with pytest.raises(DataError, match=r"dev\.tsv, line 4: label 'perhaps' is none of \['entailment', 'not_entailment'\]"):
        load("rte", tmp_path)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"needs data\.path"):
        load_task(GLUE["rte"], DataSpec(source="directory"))
    with pytest.raises(DataError, match="no such folder"):
        load("rte", tmp_path / "nowhere")
    with pytest.raises(DataError, match="no folder for rte"):
        load("rte", tmp_path)
    (tmp_path / "rte").mkdir()
    with pytest.raises(DataError, match=r"needs train\.parquet"):
        load("rte", tmp_path)
    frame = pd.DataFrame({"sentence1": ["a"], "label": [0]})
    for split in ("train", "validation"):
        frame.to_parquet(tmp_path / "rte" / f"{split}.parquet")
    with pytest.raises(DataError, match=r"missing \['sentence2'\], found \['sentence1', 'label'\]"):
        load("rte", tmp_path)
    for split in ("train", "validation"):
        frame.assign(sentence2="b").iloc[:0].to_parquet(tmp_path / "rte" / f"{split}.parquet")
    with pytest.raises(DataError, match="no rows"):
        load("rte", tmp_path)
    (tmp_path / "rte" / "train.parquet").write_bytes(b"PAR1 is not enough")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        load("rte", tmp_path)


def test_shards_are_joined_and_must_be_whole(tmp_path: Path) -> None:
    (tmp_path / "sst2").mkdir()
    for shard in range(2):
        rows = pd.DataFrame({"sentence": [f"{shard}a", f"{shard}b"], "label": [0, 1]})
        rows.to_parquet(tmp_path / "sst2" / f"train-0000{shard}-of-00002.parquet")
    rows.to_parquet(tmp_path / "sst2" / "validation.parquet")
    train = load("sst2", tmp_path).train
    assert train.texts[0] == ["0a", "0b", "1a", "1b"]
    assert train.ids.tolist() == [0, 1, 2, 3]
    (tmp_path / "sst2" / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(DataError, match="the train split is not whole"):
        load("sst2", tmp_path)


def test_two_files_for_one_split_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mnli").mkdir()
    frame = pd.DataFrame({"premise": ["a"], "hypothesis": ["b"], "label": [0]})
    for split in ("train", "validation", "validation_matched"):
        frame.to_parquet(tmp_path / "mnli" / f"{split}.parquet")
    with pytest.raises(DataError, match="validation_matched and validation could both be the validation split"):
        load("mnli", tmp_path)


def test_the_original_download_is_known_by_its_files_whatever_the_folders_case(tmp_path: Path) -> None:
    write_original(tmp_path, "mrpc").rename(tmp_path / "mrpc")
    assert len(load("mrpc", tmp_path).train) == 2


def test_what_was_left_out_is_said(tmp_path: Path) -> None:
    folder = write_original(tmp_path, "qqp")
    with (folder / "train.tsv").open("a") as file:
        file.write("torn\n")
    assert load("qqp", tmp_path, broken_rows="drop").origin == "GLUE's own QQP/ folder without 1 broken lines"
