"""What files may hold, and how what they may not is named."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.data.columns import rows_from_frame
from harness.data.tables import LEFT_OUT, read_plain_tsv, read_table
from harness.errors import DataError
from harness.study.tasks import TaskSpec

TASK = TaskSpec(name="mail", text=["body"], labels=["ham", "spam"])
# what ends a line for str.splitlines(), quotes, and what csv would make of them
FIELD = st.text(st.sampled_from(list("ab \"',\r\u2028\u0085\x0b\x1c")), min_size=1, max_size=8).map(lambda text: text + ".")


@given(st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_plain_tsv_gives_every_field_as_it_stands(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    file = tmp_path / "x.tsv"
    file.write_bytes("\n".join(["a\tb", *("\t".join(row) for row in rows)]).encode())
    frame = read_plain_tsv(file)
    assert list(zip(frame["a"], frame["b"], strict=True)) == rows
    assert frame.index.tolist() == list(range(2, len(rows) + 2))


@given(st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_csv_gives_every_field_as_it_was_written(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    file = tmp_path / "x.csv"
    pd.DataFrame(rows, columns=["a", "b"]).to_csv(file, index=False, quoting=1)
    assert list(read_table(file).itertuples(index=False, name=None)) == rows


def test_windows_line_ends_and_a_byte_order_mark_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_bytes(b"\xef\xbb\xbfa\tb\r\n1\t2\r\n")
    frame = read_table(tmp_path / "x.tsv")
    assert frame.to_dict("list") == {"a": ["1"], "b": ["2"]}


def test_only_the_columns_asked_for_are_kept(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("a\tb\tc\n1\t2\t3\n")
    assert read_plain_tsv(tmp_path / "x.tsv", keep=["c", "a"]).to_dict("list") == {"a": ["1"], "c": ["3"]}


def test_broken_lines_are_counted_where_they_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("a\tb\n1\n1\t2\n1\t2\t3\n")
    frame = read_table(tmp_path / "x.tsv", drop_broken=True)
    assert frame.attrs[LEFT_OUT] == 2
    assert frame.index.tolist() == [3]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.tsv", b"a\tb\n1\t2\n\xff\t2\n", "line 3: not UTF-8 text"),
        ("x.csv", b"a,b\n1,2\n1\n", "line 3: 1 fields where 2 are expected"),
        ("x.csv", b'a,b\n1,2\n"1"x,2\n', "line 3: not CSV"),
        ("x.csv", b"\xff,b\n", "line 1: not UTF-8 text"),
        ("x.csv", b"a;b\n1;2\n", "the header is one field, 'a;b': are its parts ';' apart"),
        ("x.csv", b"a\tb\n1\t2, 3\n", r"are its parts '\\t' apart"),
        ("x.csv", b"", "the file is empty"),
        ("x.tsv", b"", "the file is empty"),
        ("x.jsonl", b'{"a": 1}\n\n[1]\n', "line 3: a JSON object is expected, found list"),
        ("x.jsonl", b'{"a": "\xff"}\n', "line 1: not UTF-8 text"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_table(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def frame(**columns: list[object]) -> pd.DataFrame:
    return pd.DataFrame({"body": ["x", "y", "z"], "label": [0, 1, 0], **columns}).rename_axis("row")


def test_ids_are_the_rows_own_or_their_numbers() -> None:
    assert rows_from_frame(frame(), TASK, "f").ids.tolist() == [0, 1, 2]
    assert rows_from_frame(frame(idx=[7, 3, 9]), TASK, "f").ids.tolist() == [7, 3, 9]
    assert rows_from_frame(frame(idx=["7", "3", "9"]), TASK, "f").ids.tolist() == [7, 3, 9]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"idx": [1, 2, 1]}, "f, row 2: column 'idx' holds 1, but"),
        ({"idx": [1, 2.5, 3]}, "f, row 1: column 'idx' holds 2.5"),
        ({"idx": ["a", "b", "c"]}, "f, row 0: column 'idx' holds 'a'"),
        ({"body": ["x", None, "z"]}, "f, row 1: column 'body' holds .*, not text"),
        ({"label": [0, 1, 2]}, r"f, row 2: label 2 is none of \['ham', 'spam'\] and no id from 0 to 1"),
        ({"label": [0, 1, -1]}, "f, row 2: label -1 .*test splits have no labels"),
        ({"label": ["ham", None, "spam"]}, "f, row 1: label .* is none of"),
    ],
)
def test_a_wrong_value_is_named_with_its_row(columns: dict[str, list[object]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        rows_from_frame(frame(**columns), TASK, "f")


def test_a_column_that_is_there_twice_is_refused() -> None:
    twice = pd.concat([frame(), frame()[["body"]]], axis=1)
    with pytest.raises(DataError, match="'body' is there more than once"):
        rows_from_frame(twice, TASK, "f")


def test_labels_that_are_called_numbers_are_names() -> None:
    stars = TaskSpec(name="stars", text=["body"], labels=["1", "2", "3"])
    assert rows_from_frame(frame(label=[3, 1, 2]), stars, "f").labels.tolist() == [2, 0, 1]
    assert rows_from_frame(frame(label=["3.0", "1.0", "2.00"]), stars, "f").labels.tolist() == [2, 0, 1]
    halves = TaskSpec(name="stars", text=["body"], labels=["1", "1.0", "1.5"])
    assert rows_from_frame(frame(label=["1.0", "1", "1.5"]), halves, "f").labels.tolist() == [1, 0, 2]
    with pytest.raises(DataError, match="regression"):
        rows_from_frame(frame(label=["1.0", "2.5", "3.0"]), stars, "f")
    with pytest.raises(DataError, match=r"label 0 is none of \['1', '2', '3'\]$"):
        rows_from_frame(frame(label=[0, 1, 2]), stars, "f")


@pytest.mark.parametrize("labels", [["-1", "+1"], ["+1", "-1"], ["2", "1"], ["01", "002"]])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_number_in_a_file_is_the_label_of_that_number(tmp_path: Path, labels: list[str], suffix: str) -> None:
    file = tmp_path / f"rows.{suffix}"
    frame = pd.DataFrame({"body": ["a", "b", "c"], "label": [int(labels[0]), int(labels[1]), int(labels[0])]})
    if suffix == "csv":
        frame.to_csv(file, index=False)
    elif suffix == "jsonl":
        frame.to_json(file, orient="records", lines=True)
    else:
        frame.to_parquet(file)
    task = TaskSpec(name="mail", text=["body"], labels=labels)
    assert rows_from_frame(read_table(file), task, file).labels.tolist() == [0, 1, 0]


def test_labels_of_one_number_are_told_apart_by_their_letters_alone(tmp_path: Path) -> None:
    task = TaskSpec(name="mail", text=["body"], labels=["1", "+1"])
    frame = pd.DataFrame({"body": ["a", "b"], "label": ["+1", "1"]})
    assert rows_from_frame(frame, task, "rows").labels.tolist() == [1, 0]


def test_a_cell_of_a_csv_file_may_be_as_long_as_it_likes(tmp_path: Path) -> None:
    import csv

    before = csv.field_size_limit()
    file = tmp_path / "rows.csv"
    file.write_text("body,label\n" + "x" * (before + 1) + ",ham\n")
    assert len(read_table(file)["body"].iloc[0]) == before + 1
    assert csv.field_size_limit() == before
