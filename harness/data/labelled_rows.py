"""Tokenised rows together with what the teachers say of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from harness.data.batch import Batch
from harness.data.encode import Encoded
from harness.data.word_drop import WordDrop


@dataclass(frozen=True)
class CachedRows:
    """Some rows of an array that may be too large for memory."""

    array: np.ndarray
    """[all rows, ...], often memory-mapped."""
    positions: np.ndarray
    """[rows] int64: where each row lies in `array`."""

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """[batch, ...] float32."""
        return np.asarray(self.array[self.positions[indices]], dtype=np.float32)

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True)
class LabelledRows:
    encoded: Encoded
    teacher_logits: np.ndarray
    """[teachers, rows, classes] float32."""
    teacher_features: tuple[np.ndarray, ...] | None = None
    """Per teacher [rows, hidden]."""
    teacher_outputs: Mapping[str, tuple[CachedRows, ...]] = field(default_factory=dict)
    """Further cached outputs (`harness.data.output_names`): name -> per teacher [rows, ...]."""
    parts: tuple[Encoded, ...] = ()
    """Each part of the rows' texts alone (`harness.data.parts`)."""
    word_drop: WordDrop | None = None
    """Noise on the inputs; none where not given."""

    def __len__(self) -> int:
        return len(self.encoded.ids)

    def batch(self, indices: np.ndarray, global_rows: int, device: torch.device, epoch: int = 0, width_step: int = 1) -> Batch:
        """The rows at `indices`, this rank's part of a global batch of `global_rows`; `width_step`: see `Encoded.width`."""
        features = None
        if self.teacher_features is not None:
            features = tuple(torch.from_numpy(np.asarray(f[indices], dtype=np.float32)) for f in self.teacher_features)
        # all versions of the rows go through the student together
        width = max(part.width(indices, width_step) for part in (self.encoded, *self.parts))
        noisy = self.word_drop
        inputs = self.encoded.inputs(indices, width) if noisy is None else noisy.inputs(indices, epoch, width)
        return Batch(
            ids=torch.from_numpy(self.encoded.ids[indices]),
            labels=torch.from_numpy(self.encoded.labels[indices]),
            inputs=inputs,
            teacher_logits=torch.from_numpy(self.teacher_logits[:, indices]),
            teacher_features=features,
            global_rows=global_rows,
            parts=tuple(part.inputs(indices, width) for part in self.parts),
            teacher_outputs={
                name: tuple(torch.from_numpy(rows[indices]) for rows in each) for name, each in self.teacher_outputs.items()
            },
            epoch=epoch,
        ).to(device)
