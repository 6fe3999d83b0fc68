"""Words left out of inputs."""

from __future__ import annotations

import numpy as np
import torch

from harness.data.encode import Encoded
from harness.data.word_drop import WordDrop

ROWS = 400
LENGTHS = np.tile(np.array([12, 3, 8, 2], np.int32), ROWS // 4)


def encoded() -> Encoded:
    """[CLS] = 1, words from 3 on in ascending order, [SEP] = 2; the second half of each row is segment 1."""
    tokens = np.concatenate([[1, *range(3, 3 + n - 2), 2] for n in LENGTHS]).astype(np.int32)
    return Encoded(
        ids=np.arange(ROWS),
        labels=np.zeros(ROWS, np.int64),
        flipped=None,
        lengths=LENGTHS,
        tokens=tokens,
        segments=np.concatenate([(np.arange(n) >= n // 2) for n in LENGTHS]).astype(np.int8),
        starts=np.concatenate([[0], np.cumsum(LENGTHS[:-1], dtype=np.int64)]),
        pad_token=0,
        special_tokens=(0, 1, 2),
    )


def test_nothing_dropped_is_the_input_itself() -> None:
    rows, indices = encoded(), np.array([5, 0, 3])
    for pad_to in (None, 20):
        found, whole = WordDrop(rows, 0.0, seed=1).inputs(indices, 0, pad_to), rows.inputs(indices, pad_to)
        assert set(found) == set(whole)
        assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_words_are_left_out_at_the_rate_and_what_stays_keeps_order_and_segment() -> None:
    rows = encoded()
    drop = WordDrop(rows, 0.3, seed=1)
    found = drop.inputs(np.arange(ROWS), 0)
    assert found["input_ids"].shape == found["attention_mask"].shape == found["token_type_ids"].shape
    kept = 0
    for i, length in enumerate(LENGTHS):
        n = int(found["attention_mask"][i].sum())
        ids = found["input_ids"][i, :n].tolist()
        assert found["attention_mask"][i].tolist() == [1] * n + [0] * (found["attention_mask"].shape[1] - n)
        assert found["input_ids"][i, n:].tolist() == [0] * (found["input_ids"].shape[1] - n)
        assert (ids[0], ids[-1]) == (1, 2)
        assert ids[1:-1] == sorted(set(ids[1:-1]))
        positions = [0, *(word - 2 for word in ids[1:-1]), length - 1]
        assert found["token_type_ids"][i, :n].tolist() == [int(p >= length // 2) for p in positions]
        kept += n - 2
    assert abs(kept / (LENGTHS - 2).sum() - 0.7) < 0.05


def test_which_words_depends_on_the_epoch_and_not_on_the_batch() -> None:
    rows = encoded()
    drop = WordDrop(rows, 0.3, seed=1)
    together, alone = drop.inputs(np.arange(8), 0, 12), drop.inputs(np.array([4]), 0, 12)
    assert torch.equal(together["input_ids"][4], alone["input_ids"][0])
    assert not torch.equal(drop.inputs(np.arange(8), 1, 12)["input_ids"], together["input_ids"])
    assert torch.equal(WordDrop(rows, 0.3, seed=1).inputs(np.arange(8), 0, 12)["input_ids"], together["input_ids"])
