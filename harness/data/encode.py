"""Rows tokenised once per (rows, tokenizer, length), kept as memory-mapped arrays that all trials of a node share."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.checksums import remove_damaged, sealed_folder
from harness.data.rows import Rows
from harness.errors import DataError

TOKENISED_AT_ONCE = 10_000
SHORT = 32
"""Tokens. Padding of small steps counts beside few tokens; for long rows they only make more shapes, whose kernels a CPU keeps
(MRPC in bf16, 250 steps: 1,574 MiB with steps of 2, 1,334 with steps of 8, and 96 % of the time).
"""


@dataclass(frozen=True)
class Encoded:
    ids: np.ndarray
    """[rows] int64."""
    labels: np.ndarray
    """[rows] int64."""
    flipped: np.ndarray | None
    lengths: np.ndarray
    """[rows] int32, in tokens."""
    tokens: np.ndarray
    """All rows' token ids in a row, int32."""
    segments: np.ndarray | None
    """Token type ids in the same layout, int8; None where the tokenizer has none."""
    starts: np.ndarray
    """[rows] int64: where a row's tokens start."""
    pad_token: int
    special_tokens: tuple[int, ...] = ()
    """Ids of the tokens that stand for no word: padding, and what the tokenizer puts around texts."""

    def inputs(self, indices: np.ndarray, pad_to: int | None = None) -> dict[str, torch.Tensor]:
        """Model inputs for the rows at `indices`, each [batch, length] int64, padded to the longest or to `pad_to`."""
        lengths = self.lengths[indices]
        width = int(lengths.max())
        if pad_to is not None:
            if pad_to < width:
                raise ValueError(f"pad_to is {pad_to}, but a row has {width} tokens")
            width = pad_to
        position = np.arange(width)
        mask = position[None, :] < lengths[:, None]
        where = np.where(mask, self.starts[indices][:, None] + position[None, :], 0)
        inputs = {
            "input_ids": np.where(mask, self.tokens[where], self.pad_token).astype(np.int64),
            "attention_mask": mask.astype(np.int64),
        }
        if self.segments is not None:
            inputs["token_type_ids"] = np.where(mask, self.segments[where], 0).astype(np.int64)
        return {name: torch.from_numpy(array) for name, array in inputs.items()}

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Numbers of the rows with these ids, [len(ids)] int64. An id may repeat; all must be among the rows'."""
        return np.asarray(self._by_id[np.searchsorted(self.ids, ids, sorter=self._by_id)])

    @cached_property
    def _by_id(self) -> np.ndarray:
        """Row numbers in the order of their ids."""
        return np.argsort(self.ids, kind="stable")

    def width(self, indices: np.ndarray, step: int = 1) -> int:
        """The longest of the rows at `indices`, in tokens, rounded up to steps, but never beyond the longest of all rows.

        Above `SHORT` tokens no step is smaller than 8, but for a step of 1, which is none.
        """
        longest = int(self.lengths[indices].max())
        if step > 1 and longest > SHORT:
            step = max(step, 8)
        return min(-(-longest // step) * step, self._longest)

    @cached_property
    def _longest(self) -> int:
        return int(self.lengths.max())


def encode(
    rows: Rows, tokenizer: Any, max_length: int, cache: Path, tokenizer_digest: str, data_digest: str, role: str
) -> Encoded:
    """The rows' tokens, from the cache where they are there. `role` names the rows within `data_digest`.

    Safe under races: a folder appears whole or not at all. A damaged one is made again. Raises DataError for a tokenizer
    without a padding token.
    """
    if tokenizer.pad_token_id is None:
        raise DataError(f"the tokenizer {tokenizer.name_or_path!r} has no padding token; batches need one")
    name = hashlib.sha256(f"{data_digest}/{role}/{tokenizer_digest}/{max_length}".encode()).hexdigest()[:24]
    folder = cache / "tokens" / name
    if damage := remove_damaged(folder):
        logging.getLogger("harness").warning("%s", damage)
    if not folder.exists():
        _write(rows, tokenizer, max_length, folder, data_digest)
    segments = folder / "segments.npy"
    lengths = np.load(folder / "lengths.npy")
    return Encoded(
        ids=rows.ids,
        labels=rows.labels,
        flipped=rows.flipped,
        lengths=lengths,
        tokens=np.asarray(np.load(folder / "tokens.npy", mmap_mode="r")),
        segments=np.load(segments, mmap_mode="r") if segments.exists() else None,
        starts=np.concatenate([[0], np.cumsum(lengths[:-1], dtype=np.int64)]),
        pad_token=int(tokenizer.pad_token_id),
        special_tokens=_special_tokens(tokenizer),
    )


def token_folders(cache: Path, data_digest: str) -> list[Path]:
    """Where `encode` has put tokens of these rows."""
    named = [file for file in (cache / "tokens").glob("*/rows.txt") if file.read_text("utf-8", errors="replace") == data_digest]
    return [file.parent for file in named]


def _special_tokens(tokenizer: Any) -> tuple[int, ...]:
    names = ("pad_token_id", "cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id")
    return tuple(sorted({int(token) for name in names if (token := getattr(tokenizer, name)) is not None}))


def _write(rows: Rows, tokenizer: Any, max_length: int, folder: Path, data_digest: str) -> None:
    tokens: list[np.ndarray] = []
    segments: list[np.ndarray] = []
    lengths: list[int] = []
    for start in range(0, len(rows), TOKENISED_AT_ONCE):
        columns = [column[start : start + TOKENISED_AT_ONCE] for column in rows.texts]
        found = tokenizer(*columns, truncation="longest_first", max_length=max_length, padding=False)
        # an empty text, and a tokenizer that puts nothing around texts: no model takes no token
        ids = [row or [tokenizer.pad_token_id] for row in found["input_ids"]]
        lengths += [len(row) for row in ids]
        tokens += [np.asarray(row, np.int32) for row in ids]
        segments += [np.asarray(row or [0], np.int8) for row in found.get("token_type_ids", [])]
    with sealed_folder(folder) as unfinished:
        np.save(unfinished / "tokens.npy", np.concatenate(tokens))
        np.save(unfinished / "lengths.npy", np.asarray(lengths, np.int32))
        if segments:
            np.save(unfinished / "segments.npy", np.concatenate(segments))
        (unfinished / "rows.txt").write_text(data_digest, "utf-8")  # for `harness gc`: the folder's name is a hash
