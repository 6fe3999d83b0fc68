"""Inputs with words left out at random, as noise for a student in training."""

from __future__ import annotations

import numpy as np
import torch

from harness.data.encode import Encoded


class WordDrop:
    """Leaves out each token with probability `rate`; the tokens that the tokenizer puts around texts stay.

    Which ones is a pure function of (seed, epoch, row), the same however rows are batched and on any number of ranks.
    """

    def __init__(self, rows: Encoded, rate: float, seed: int) -> None:
        self.rows = rows
        self.rate = rate
        self.seed = seed
        self._special = np.isin(rows.tokens, rows.special_tokens)
        self._epoch = -1
        self._kept = self._special

    def inputs(self, indices: np.ndarray, epoch: int, pad_to: int | None = None) -> dict[str, torch.Tensor]:
        """As `Encoded.inputs`, of what is left of the rows in this epoch."""
        if epoch != self._epoch:
            draws = np.random.default_rng([self.seed, epoch]).random(len(self.rows.tokens), dtype=np.float32)
            self._kept, self._epoch = self._special | (draws >= self.rate), epoch
        whole = {name: tensor.numpy() for name, tensor in self.rows.inputs(indices).items()}
        present = whole["attention_mask"].astype(bool)
        where = self.rows.starts[indices][:, None] + np.arange(present.shape[1])
        kept = present & self._kept[np.where(present, where, 0)]
        lengths = kept.sum(1)
        width = int(lengths.max()) if pad_to is None else pad_to
        order = np.argsort(~kept, axis=1, kind="stable")[:, :width]  # what is kept, in its order, comes first
        mask = np.arange(order.shape[1]) < lengths[:, None]
        found = {name: np.take_along_axis(values, order, 1) for name, values in whole.items()}
        padding = {"input_ids": self.rows.pad_token}
        left = {name: np.where(mask, values, padding.get(name, 0)) for name, values in found.items()}
        missing = width - order.shape[1]
        padded = {n: np.pad(v, ((0, 0), (0, missing)), constant_values=padding.get(n, 0)) for n, v in left.items()}
        return {name: torch.from_numpy(values) for name, values in padded.items()}
