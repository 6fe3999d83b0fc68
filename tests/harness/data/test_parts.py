"""The parts of pairs and of single texts."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harness.data.parts import split_parts
from harness.data.rows import FitRows


def rows(*texts: list[str]) -> FitRows:
    n = len(texts[0])
    return FitRows(ids=np.arange(n), texts=texts, labels=np.zeros(n, np.int64))


def test_a_pair_is_split_into_its_texts() -> None:
    first, second = split_parts(rows(["a b", "c"], ["d", "e f"]))
    assert first.texts == (["a b", "c"], ["", ""])
    assert second.texts == (["", ""], ["d", "e f"])
    assert type(first) is FitRows


@given(st.lists(st.lists(st.text("abc", min_size=1)), min_size=1, max_size=5))
def test_a_single_text_is_split_into_halves_that_hold_every_word_once(texts: list[list[str]]) -> None:
    parts = split_parts(rows([" ".join(words) for words in texts]))
    for i, words in enumerate(texts):
        first, second = (part.texts[0][i].split() for part in parts)
        assert first + second == words
        assert len(first) - len(second) in (0, 1)
