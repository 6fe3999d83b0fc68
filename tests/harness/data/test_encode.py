from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing

from harness.data.encode import SHORT, Encoded, encode
from harness.data.roles import cut_roles
from harness.data.rows import FitRows
from harness.data.source import load_task
from harness.models.tokenizing import load_tokenizer, tokenizer_digest
from harness.study.data import DataSpec, GeneratedSpec
from harness.study.schema import ModelSpec
from harness.study.tasks import GLUE


@pytest.fixture
def encoded(tmp_path: Path) -> tuple[Encoded, object, list[tuple[str, str]]]:
    spec = DataSpec(source="generated", generated=GeneratedSpec(train_rows=100, report_rows=20))
    training = cut_roles(load_task(GLUE["mnli"], spec), spec, 3).training
    tokenizer = load_tokenizer(ModelSpec(config={"model_type": "bert"}), training.texts(), tmp_path)
    rows = training.fit
    found = encode(rows, tokenizer, 12, tmp_path, tokenizer_digest(tokenizer), "data", "fit")
    again = encode(rows, tokenizer, 12, tmp_path, tokenizer_digest(tokenizer), "data", "fit")
    np.testing.assert_array_equal(found.tokens, again.tokens)
    return found, tokenizer, list(zip(*rows.texts, strict=True))


def test_inputs_are_what_the_tokenizer_says(encoded: tuple) -> None:
    rows, tokenizer, texts = encoded
    chosen = np.array([5, 0, 17])
    expected = tokenizer(
        [texts[i][0] for i in chosen],
        [texts[i][1] for i in chosen],
        truncation="longest_first",
        max_length=12,
        padding=True,
        return_tensors="pt",
    )
    inputs = rows.inputs(chosen)
    assert set(inputs) == set(expected)
    for name, tensor in inputs.items():
        assert tensor.equal(expected[name]), name


def test_a_text_without_a_token_is_one_token_of_padding(encoded: tuple, tmp_path: Path) -> None:
    _, tokenizer, _ = encoded
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    rows = FitRows(np.arange(2), (["a", ""], ["b", ""]), np.zeros(2, np.int64))
    found = encode(rows, tokenizer, 12, tmp_path, "bare", "data", "fit")
    assert found.lengths.tolist() == [2, 1]
    inputs = found.inputs(np.array([1]))
    assert inputs["input_ids"].tolist() == [[tokenizer.pad_token_id]]
    assert inputs["attention_mask"].tolist() == [[1]]
    assert inputs["token_type_ids"].tolist() == [[0]]


def test_rows_can_be_padded_to_a_width(encoded: tuple) -> None:
    rows, _, _ = encoded
    inputs = rows.inputs(np.array([1, 2]), pad_to=20)
    assert inputs["input_ids"].shape == (2, 20)
    assert int(inputs["attention_mask"].sum()) == int(rows.lengths[[1, 2]].sum())
    with pytest.raises(ValueError, match="pad_to is 1, but a row has"):
        rows.inputs(np.array([1, 2]), pad_to=1)


@pytest.mark.parametrize("step", [1, 4, 8])
def test_widths_come_in_steps_and_stay_within_the_longest_row(encoded: tuple, step: int) -> None:
    rows, _, _ = encoded
    assert rows.lengths.max() == 12
    for row in range(len(rows.ids)):
        assert rows.width(np.array([row]), step) == min(math.ceil(int(rows.lengths[row]) / step) * step, 12)


def test_long_rows_come_in_no_smaller_steps_than_of_eight(encoded: tuple) -> None:
    rows = replace(encoded[0], lengths=np.arange(1, 81))
    for row, longest in enumerate(rows.lengths):
        expected = 2 if longest <= SHORT else 8
        assert rows.width(np.array([row]), 2) == math.ceil(longest / expected) * expected
        assert rows.width(np.array([row]), 1) == longest


def test_rows_are_found_by_their_ids_in_any_order(encoded: tuple) -> None:
    rows = encoded[0]
    chosen = np.array([5, 0, 17, 5])
    assert rows.rows_of(rows.ids[chosen]).tolist() == chosen.tolist()
