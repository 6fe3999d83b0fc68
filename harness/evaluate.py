"""A model's outputs over many rows."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from harness.data.encode import Encoded
from harness.models import run_model

EVALUATION_BATCH = 128
WIDTH_STEPS = {"fp32": 1, "bf16": 8}
"""Batches are padded to widths in these steps. In bf16 kernels are made and kept for every shape: about 4 MB each on a CPU."""


class Predictions(NamedTuple):
    logits: Tensor
    """[rows, classes] float32 on the CPU, in the order asked for."""
    features: Tensor | None
    """[rows, hidden] float32 on the CPU."""
    layers: Tensor | None = None
    """[rows, layers, hidden] float32 on the CPU."""


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """bf16 autocast where `precision` (fp32 or bf16) asks for it."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def resolve_precision(wanted: str, device: torch.device) -> str:
    """`auto` is bf16 on a GPU that computes in it, else fp32."""
    if wanted != "auto":
        return wanted
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


@torch.no_grad()
def predict(
    model: nn.Module,
    rows: Encoded,
    indices: np.ndarray,
    precision: str = "fp32",
    features: bool = False,
    *,
    layers: bool = False,
    dropout: bool = False,
) -> Predictions:
    """Outputs for the rows at `indices`, dropout off unless asked for; the model's mode is restored.

    Rows are batched by length, so a batch holds little padding.
    """
    device = next(model.parameters()).device
    by_length = np.argsort(rows.lengths[indices], kind="stable")
    logits: list[Tensor] = []
    pooled: list[Tensor] = []
    each_layer: list[Tensor] = []
    was_training = model.training
    model.train(dropout)
    try:
        for start in range(0, len(indices), EVALUATION_BATCH):
            chosen = indices[by_length[start : start + EVALUATION_BATCH]]
            inputs = rows.inputs(chosen, rows.width(chosen, WIDTH_STEPS[precision]))
            with autocast(device, precision):
                outputs = run_model(model, {name: tensor.to(device) for name, tensor in inputs.items()}, features, layers)
            logits.append(outputs.logits.float())
            if outputs.features is not None:
                pooled.append(outputs.features.float())
            if outputs.layers is not None:
                each_layer.append(outputs.layers.float().transpose(0, 1).cpu())
    finally:
        model.train(was_training)
    back = torch.from_numpy(np.argsort(by_length, kind="stable"))
    return Predictions(
        torch.cat(logits).cpu()[back],
        torch.cat(pooled).cpu()[back] if pooled else None,
        torch.cat(each_layer)[back] if each_layer else None,
    )
