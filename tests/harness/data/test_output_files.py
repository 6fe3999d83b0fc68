"""Files of a teacher's outputs: read back as they were written, in any order, for the rows in use."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.data.output_files import files_digest, read_outputs, write_outputs
from harness.data.rows import Rows
from harness.errors import DataError

CLASSES = ["no", "perhaps", "yes"]
IDS = np.array([7, 3, 11, 4, 20])
SPLIT = Rows(ids=IDS, texts=(["a"] * 5,), labels=np.zeros(5, np.int64))
LOGITS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def read(file: Path, used: np.ndarray = IDS, labels: list[str] | None = None, kind: str = "logits") -> np.ndarray:
    return read_outputs(file, SPLIT, used, CLASSES, labels, kind)


@settings(max_examples=20)
@given(order=st.permutations(range(5)), columns=st.permutations(["idx", *CLASSES]), used=st.permutations(range(5)))
def test_rows_are_matched_by_id_and_columns_by_name(order: list[int], columns: list[str], used: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.parquet"
        write_outputs(file, IDS, LOGITS, CLASSES)
        pd.read_parquet(file).iloc[order][columns].to_parquet(file, index=False)
        np.testing.assert_array_equal(read(file, IDS[used[:3]]), LOGITS[used[:3]])


def test_without_ids_lines_are_the_split_s_rows(tmp_path: Path) -> None:
    pd.DataFrame({name: LOGITS[:, k] for k, name in enumerate(CLASSES)}).to_parquet(tmp_path / "t.parquet")
    np.save(tmp_path / "t.npy", LOGITS[:, [1, 2, 0]].astype(np.float64))
    used = np.array([20, 3])
    np.testing.assert_array_equal(read(tmp_path / "t.parquet", used), LOGITS[[4, 1]])
    np.testing.assert_array_equal(read(tmp_path / "t.npy", used, ["perhaps", "yes", "no"]), LOGITS[[4, 1]])


def test_rows_that_are_not_used_may_be_missing_or_empty(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    write_outputs(file, IDS[:3], np.where(IDS[:3, None] == 3, np.nan, LOGITS[:3]), CLASSES)
    np.testing.assert_array_equal(read(file, np.array([11, 7])), LOGITS[[2, 0]])
    with pytest.raises(DataError, match=r"idx 3 \(nan, nan, nan\) are not finite"):
        read(file, np.array([3, 7]))
    with pytest.raises(DataError, match="2 of the 5 rows that the study uses have no outputs, first idx 4"):
        read(file)


def test_probabilities_are_logits_up_to_a_number_a_row(tmp_path: Path) -> None:
    softmax = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    write_outputs(tmp_path / "p.parquet", IDS, softmax, CLASSES)
    found = read(tmp_path / "p.parquet", kind="probabilities")
    np.testing.assert_allclose(found, LOGITS - LOGITS.mean(1, keepdims=True), atol=1e-6)


@given(smallest=st.floats(1e-12, 0.2))
def test_a_probability_of_0_is_finite_and_never_above_another_one(smallest: float) -> None:
    values = np.array([[0.0, smallest, 1 - smallest], [0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4]])
    with tempfile.TemporaryDirectory() as folder:
        write_outputs(Path(folder) / "p.parquet", IDS, values, CLASSES)
        found = read(Path(folder) / "p.parquet", kind="probabilities")
    assert np.isfinite(found).all()
    assert found[0, 0] <= found[0, 1]


def test_a_digest_is_of_contents(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet"):
        write_outputs(tmp_path / name, IDS, LOGITS, CLASSES)
    first = files_digest({"train": tmp_path / "a.parquet"})
    assert files_digest({"train": tmp_path / "b.parquet"}) == first
    assert files_digest({"validation": tmp_path / "a.parquet"}) != first
    write_outputs(tmp_path / "b.parquet", IDS, LOGITS + 1, CLASSES)
    assert files_digest({"train": tmp_path / "b.parquet"}) != first


def test_a_class_called_as_the_ids_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a class is called 'idx'"):
        write_outputs(tmp_path / "t.parquet", IDS, LOGITS, ["idx", "yes", "no"])
