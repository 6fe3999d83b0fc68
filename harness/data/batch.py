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
    """Name (`harness.data.output_names`) -> per teacher [batch, ...]."""
    epoch: int = 0

    @property
    def samples(self) -> int:
        """What a student pass over the batch counts: its rows, and each of their parts."""
        return len(self.ids) * (1 + len(self.parts))

    def split(self, parts: int) -> list[Batch]:
        """The batch in order, as at most `parts` batches that differ by one sample at most, all as wide as the whole."""
        parts = max(1, min(parts, len(self.ids)))
        if parts == 1:
            return [self]
        size, more = divmod(len(self.ids), parts)
        ends = [size * (i + 1) + min(i + 1, more) for i in range(parts)]
        return [self._rows(slice(start, end)) for start, end in zip([0, *ends], ends, strict=False)]

    def _rows(self, rows: slice) -> Batch:
        features = self.teacher_features
        return replace(
            self,
            ids=self.ids[rows],
            labels=self.labels[rows],
            inputs={name: tensor[rows] for name, tensor in self.inputs.items()},
            teacher_logits=self.teacher_logits[:, rows],
            teacher_features=None if features is None else tuple(tensor[rows] for tensor in features),
            parts=tuple({name: tensor[rows] for name, tensor in part.items()} for part in self.parts),
            teacher_outputs={name: tuple(t[rows] for t in tensors) for name, tensors in self.teacher_outputs.items()},
        )

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
