"""The student's pass on a batch, whole or in micro-batches where the whole does not fit into memory.

In micro-batches no graph is kept: a part's forward pass is repeated, with the same dropout masks, when the way back reaches it
(`torch.utils.checkpoint`). The outputs are those of the whole batch, so a strategy sees the global batch as ever, and a loss
may compare its samples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from harness.data.batch import Batch
from harness.data.encode import Encoded
from harness.models.build import Outputs, run_batch, run_model
from harness.models.evaluate import as_in_evaluation
from harness.models.run import RunModel


class StudentPass(nn.Module):
    """`run_batch` as a module, which is what is wrapped for several ranks: these want one pass a step."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.micro_batches = 1
        self.run: RunModel = run_model
        """What passes a whole batch; micro-batches are always passed by `run_model`."""

    def forward(self, batch: Batch, features: bool, layers: bool) -> Outputs:
        run = self.run if self.micro_batches == 1 else run_model
        return in_micro_batches(lambda part: run_batch(self.model, part, features, layers, run), batch, self.micro_batches)


def in_micro_batches(run: Callable[[Batch], Outputs], batch: Batch, micro_batches: int) -> Outputs:
    """`run` on the batch, in at most so many parts of nearly equal size; the outputs are joined."""
    parts = batch.split(micro_batches)
    if len(parts) == 1:
        return run(batch)
    if torch.is_grad_enabled():
        outputs = [checkpoint(run, part, use_reentrant=False) for part in parts]
    else:
        outputs = [run(part) for part in parts]
    return Outputs(
        torch.cat([one.logits for one in outputs]),
        _joined([one.features for one in outputs], 0),
        _joined([one.layers for one in outputs], 1),
        _joined([one.parts for one in outputs], 1),
    )


def passes_forward(batch: Batch, micro_batches: int) -> int:
    """Samples that a way back through the batch passes forward once more."""
    return batch.samples if min(micro_batches, len(batch.ids)) > 1 else 0


def logits_reach_all(model: nn.Module, rows: Encoded) -> bool:
    """Whether the logits' gradient reaches every parameter that is trained. XLNet's vector of masked words has none, nor has
    the pooler of a classifier that does not read it (BigBird). Tried with a row; gradients and generators stay as they were.
    """
    inputs = {name: tensor.to(next(model.parameters()).device) for name, tensor in rows.inputs(np.arange(1)).items()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with as_in_evaluation(model):
        found = torch.autograd.grad(run_model(model, inputs).logits.sum(), trained, allow_unused=True)
    return all(gradient is not None for gradient in found)


def _joined(tensors: list[Tensor | None], dim: int) -> Tensor | None:
    given = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(given, dim) if given else None
