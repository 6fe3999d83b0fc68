"""One batch of tokenised rows, with what the teachers say of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

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
    parts: tuple[dict[str, Tensor], ...] = ()
    """The inputs of each part of the rows' texts alone, as wide as `inputs` (`harness.data.parts`)."""
    teacher_outputs: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    """Name (`harness.cached_outputs`) -> per teacher [batch, ...]."""
    epoch: int = 0

    @property
    def samples(self) -> int:
        """What a student pass over the batch counts: its rows, and each of their parts."""
        return len(self.ids) * (1 + len(self.parts))

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        if device.type == "cpu":
            return self

        def move(tensor: Tensor) -> Tensor:
            return tensor.pin_memory().to(device, non_blocking=True)

        return replace(
            self,
            ids=move(self.ids),
            labels=move(self.labels),
            inputs={name: move(tensor) for name, tensor in self.inputs.items()},
            teacher_logits=move(self.teacher_logits),
            teacher_features=None if self.teacher_features is None else tuple(move(f) for f in self.teacher_features),
            parts=tuple({name: move(tensor) for name, tensor in part.items()} for part in self.parts),
            teacher_outputs={name: tuple(move(t) for t in tensors) for name, tensors in self.teacher_outputs.items()},
        )
