"""Which rows make a batch: rows of similar length together, in an order that only the seed and the epoch decide."""

from __future__ import annotations

import numpy as np

from harness.seeds import derive_seed

POOL_BATCHES = 32
"""Rows are sorted by length within random pools of so many batches: little padding, and batches that differ every epoch."""


class LengthBucketedBatches:
    """Every row once an epoch, in ceil(rows / batch_size) batches whose sizes differ by at most one."""

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int) -> None:
        self._lengths = np.asarray(lengths)
        self._batch_size = batch_size
        self._seed = seed

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """The epoch's batches, each an array of row numbers; a pure function of the seed and the epoch."""
        generator = np.random.default_rng([self._seed, epoch])
        rows = generator.permutation(len(self._lengths))
        pool = self._batch_size * POOL_BATCHES
        pools = np.array_split(rows, max(1, round(len(rows) / pool)))
        ordered = [part[np.argsort(self._lengths[part], kind="stable")] for part in pools]
        # every other pool from long to short: a batch that lies across two pools holds rows of similar length too
        by_length = np.concatenate([part[::-1] if number % 2 else part for number, part in enumerate(ordered)])
        batches = np.array_split(by_length, -(-len(rows) // self._batch_size))
        return [batches[i] for i in generator.permutation(len(batches))]


class MetaBatches:
    """Batches of the meta set, each row once in a pass over it, rows of similar length together."""

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int) -> None:
        self._batches = LengthBucketedBatches(lengths, batch_size, derive_seed(seed, "meta"))
        self._per_pass = -(-len(lengths) // batch_size)
        self._drawn: tuple[int, list[np.ndarray]] | None = None

    def at(self, step: int) -> np.ndarray:
        """The meta batch of an optimiser step: row numbers; a pure function of the seed and the step."""
        which_pass, position = divmod(step, self._per_pass)
        if self._drawn is None or self._drawn[0] != which_pass:
            self._drawn = (which_pass, self._batches.epoch(which_pass))
        return self._drawn[1][position]
