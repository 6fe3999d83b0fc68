"""One batch of tokenised rows, with what the teachers say of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    ids: Tensor
    """[batch] int64."""
    labels: Tensor
    """[batch] int64."""
    inputs: dict[str, Tensor]
    """Each [batch, length]."""
    teacher_logits: Tensor
    """[teachers, batch, classes] float32."""
    teacher_features: tuple[Tensor, ...] | None
    """Per teacher [batch, hidden of that teacher]."""
    global_rows: int
    """Rows of the global batch, of which this is one rank's part."""

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        if device.type == "cpu":
            return self

        def move(tensor: Tensor) -> Tensor:
            return tensor.pin_memory().to(device, non_blocking=True)

        return Batch(
            ids=move(self.ids),
            labels=move(self.labels),
            inputs={name: move(tensor) for name, tensor in self.inputs.items()},
            teacher_logits=move(self.teacher_logits),
            teacher_features=None if self.teacher_features is None else tuple(move(f) for f in self.teacher_features),
            global_rows=self.global_rows,
        )
