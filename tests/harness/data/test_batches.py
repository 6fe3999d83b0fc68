from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harness.data.batches import LengthBucketedBatches, MetaBatches
from harness.data.parts import split_parts
from harness.data.rows import FitRows
from harness.ranks import shard


@given(st.integers(1, 3000), st.integers(1, 64), st.integers(0, 5))
def test_every_row_once_in_even_batches(rows: int, batch_size: int, epoch: int) -> None:
    lengths = np.random.default_rng(rows).integers(3, 128, rows)
    batches = LengthBucketedBatches(lengths, batch_size, seed=1).epoch(epoch)
    assert len(batches) == -(-rows // batch_size)
    assert sorted(np.concatenate(batches)) == list(range(rows))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) - min(sizes) <= 1


def test_batches_depend_on_seed_and_epoch_alone_and_hold_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(3, 128, 5000)
    first = LengthBucketedBatches(lengths, 32, seed=1)
    again = LengthBucketedBatches(lengths, 32, seed=1)
    for a, b in zip(first.epoch(3), again.epoch(3), strict=True):
        np.testing.assert_array_equal(a, b)
    members = {frozenset(batch.tolist()) for batch in first.epoch(0)}
    assert not members & {frozenset(batch.tolist()) for batch in first.epoch(1)}
    padded = sum(lengths[batch].max() * len(batch) for batch in first.epoch(0))
    assert padded < 1.1 * lengths.sum()


@given(st.integers(1, 200), st.integers(1, 64), st.integers(0, 500))
def test_meta_batches_go_through_the_meta_set_pass_by_pass(rows: int, batch_size: int, start: int) -> None:
    lengths = np.random.default_rng(rows).integers(3, 128, rows)
    batches = MetaBatches(lengths, batch_size, seed=0)
    a_pass = -(-rows // batch_size)
    first = start // a_pass * a_pass
    seen = [batches.at(step) for step in range(first, first + a_pass)]
    assert sorted(np.concatenate(seen)) == list(range(rows))
    assert max(map(len, seen)) <= batch_size
    np.testing.assert_array_equal(batches.at(start), MetaBatches(lengths, batch_size, seed=0).at(start))


@given(st.integers(1, 100), st.integers(1, 8))
def test_shards_in_order_are_the_batch(rows: int, world: int) -> None:
    parts = [shard(np.arange(rows), rank, world) for rank in range(world)]
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(rows))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


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
