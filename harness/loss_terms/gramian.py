"""Inner products of the loss terms' gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from harness.data.batch import Batch
from harness.ranks import Ranks


def term_gramian(
    model: nn.Module,
    terms: dict[str, Tensor],
    batch: Batch,
    ranks: Ranks,
    count: Callable[[int, int], None],
    forward_again: int = 0,
) -> Tensor:
    """[rows, rows] float32: <gradient of term a's batch mean, gradient of term b's>, over all of the student's parameters.

    One row a term, in the order of `terms`; a term per teacher has a row for each teacher. The graph stays usable.
    `forward_again`: samples that each way back passes forward once more (`harness.models.student_pass`).
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    objectives = [row.sum() / batch.global_rows for values in terms.values() for row in values.reshape(-1, values.shape[-1])]
    gradients = []
    for objective in objectives:
        found = torch.autograd.grad(objective, parameters, retain_graph=True, allow_unused=True)
        flat = torch.cat(
            [(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in zip(found, parameters, strict=True)]
        )
        ranks.sum_([flat])
        gradients.append(flat)
    count(len(objectives) * forward_again, len(objectives) * batch.samples)
    stacked = torch.stack(gradients)
    return (stacked @ stacked.T).float()
