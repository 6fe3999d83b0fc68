"""Tokenised rows together with what the teachers say of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from harness.data.batch import Batch
from harness.data.encode import Encoded


@dataclass(frozen=True)
class LabelledRows:
    encoded: Encoded
    teacher_logits: np.ndarray
    """[teachers, rows, classes] float32."""
    teacher_features: tuple[np.ndarray, ...] | None = None
    """Per teacher [rows, hidden]."""

    def __len__(self) -> int:
        return len(self.encoded.ids)

    def batch(self, indices: np.ndarray, global_rows: int, device: torch.device) -> Batch:
        """The rows at `indices`, this rank's part of a global batch of `global_rows`."""
        features = None
        if self.teacher_features is not None:
            features = tuple(torch.from_numpy(np.asarray(f[indices], dtype=np.float32)) for f in self.teacher_features)
        return Batch(
            ids=torch.from_numpy(self.encoded.ids[indices]),
            labels=torch.from_numpy(self.encoded.labels[indices]),
            inputs=self.encoded.inputs(indices),
            teacher_logits=torch.from_numpy(self.teacher_logits[:, indices]),
            teacher_features=features,
            global_rows=global_rows,
        ).to(device)
