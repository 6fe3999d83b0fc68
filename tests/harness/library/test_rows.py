"""A user's rows become the harness's, or a sentence says which of them cannot."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.library import rows_from_features

TOKENIZER = SimpleNamespace(pad_token_id=0, cls_token_id=1, sep_token_id=2, bos_token_id=None, eos_token_id=None)
ROWS: list[dict[str, Any]] = [
    {"id": 7, "input_ids": [1, 9, 2], "labels": 1},
    {"id": 3, "input_ids": [1, 2], "labels": 0},
]


def test_a_batch_has_the_rows_padded_in_the_order_asked_for() -> None:
    logits = np.array([[0.5, -0.5], [2.0, 1.0]])
    rows = rows_from_features(ROWS, logits, TOKENIZER)
    inputs = rows.encoded.inputs(np.array([1, 0]))
    assert inputs["input_ids"].tolist() == [[1, 2, 0], [1, 9, 2]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert "token_type_ids" not in inputs
    assert rows.encoded.ids.tolist() == [7, 3]
    assert rows.teacher_logits.tolist() == [logits.tolist()]
    assert rows_from_features(ROWS, [logits, logits], TOKENIZER).teacher_logits.shape == (2, 2, 2)


@pytest.mark.parametrize(
    ("rows", "logits", "said"),
    [
        ([], np.zeros((0, 2)), "there are no rows"),
        ([ROWS[0], {"id": 3, "input_ids": [1]}], np.zeros((2, 2)), "row 1 has no 'labels'; it has id, input_ids"),
        ([ROWS[0], {**ROWS[1], "attention_mask": [1, 1, 0]}], np.zeros((2, 2)), "row 1 is padded"),
        (ROWS, np.zeros((3, 2)), r"shape \(3, 2\)"),
        (ROWS, np.array([[0.0, 0.0], [np.nan, 0.0]]), "row 1 are not finite"),
        ([ROWS[0], ROWS[0]], np.zeros((2, 2)), "2 rows have the id 7"),
        ([ROWS[0], {**ROWS[1], "labels": 0.5}], np.zeros((2, 2)), r"row 1 has the labels 0\.5; a whole number"),
        ([ROWS[0], {**ROWS[1], "labels": "bug"}], np.zeros((2, 2)), "row 1 has the labels 'bug'; a whole number"),
        (
            [ROWS[0], {**ROWS[1], "labels": 2}],
            np.zeros((2, 2)),
            "row 1 has the label 2, and the teachers have the classes 0 to 1",
        ),
    ],
)
def test_rows_that_cannot_be_are_named(rows: list[dict[str, Any]], logits: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        rows_from_features(rows, logits, TOKENIZER)


def test_a_tokenizer_without_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="no padding token"):
        rows_from_features(ROWS, np.zeros((2, 2)), SimpleNamespace(pad_token_id=None))
