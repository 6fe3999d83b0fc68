"""Decisions of several batches that wait for their reward, and what the student has become by then."""

from __future__ import annotations

from collections.abc import Mapping

from strategies.base import Context, Setup
from strategies.lazy import torch
from strategies.parts.several_teachers import each_kd
from strategies.parts.state import detached


class Episode:
    """Ids, states and actions of the batches since the last reward."""

    def __init__(self) -> None:
        self.batches: list[dict[str, torch.Tensor]] = []

    def add(self, ids: torch.Tensor, states: torch.Tensor, actions: torch.Tensor) -> None:
        """Take in a batch: ids [batch], states [..., batch, features], actions [teachers, batch]."""
        self.batches.append(detached({"ids": ids, "states": states, "actions": actions}))

    def __len__(self) -> int:
        return len(self.batches)

    def take(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The samples of all batches together, in the shapes of `add`; the episode is empty afterwards."""
        found = self.batches
        self.batches = []
        return (
            torch.cat([batch["ids"] for batch in found]),
            torch.cat([batch["states"] for batch in found], dim=-2),
            torch.cat([batch["actions"] for batch in found], dim=-1),
        )

    def state_dict(self) -> list[dict[str, torch.Tensor]]:
        copy: list[dict[str, torch.Tensor]] = detached(self.batches)
        return copy

    def load_state_dict(self, state: list[Mapping[str, torch.Tensor]], device: torch.device) -> None:
        self.batches = [{name: tensor.to(device) for name, tensor in batch.items()} for batch in state]


class UpdatedStudent:
    """The losses on training rows of the student as it is now."""

    def __init__(self, setup: Setup) -> None:
        self._fit = setup.fit
        self._order = setup.fit.ids.argsort()
        self._sorted = setup.fit.ids[self._order]

    def losses(self, context: Context, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy with the label [rows] and KD with every teacher [teachers, rows], by a replay of the rows."""
        assert context.replay is not None
        student = context.replay(ids)
        rows = self._order[torch.searchsorted(self._sorted, ids.cpu())]
        labels = self._fit.labels[rows].to(student.device)
        teacher_logits = self._fit.teacher_logits[:, rows].to(student.device)
        cross_entropy = torch.nn.functional.cross_entropy(student, labels, reduction="none")
        return cross_entropy, each_kd(student, teacher_logits, context.temperature)
