"""A model's outputs over many rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from harness.data.encode import Encoded
from harness.models.build import run_model

EVALUATION_BATCH = 128
WIDTH_STEPS = {("cpu", "fp32"): 1, ("cpu", "bf16"): 2, ("gpu", "fp32"): 1, ("gpu", "bf16"): 8}
"""Batches are padded to widths in these steps (`Encoded.width`), by kind of device and precision. A GPU's products of half
precision want multiples of 8. A CPU's kernels of half precision are compiled for every new shape, which takes less than so much
padding: 300 steps from a new process take 25.6 s in steps of 2 and 28.5 s in steps of 8 (CoLA; SST-2: 30.5 and 35.4 s).
"""


def width_step(device: torch.device, precision: str) -> int:
    """Of `WIDTH_STEPS`; `precision` is fp32 or bf16."""
    return WIDTH_STEPS["cpu" if device.type == "cpu" else "gpu", precision]


class Predictions(NamedTuple):
    logits: Tensor
    """[rows, classes] float32 on the CPU, in the order asked for."""
    features: Tensor | None
    """[rows, hidden] float32 on the CPU."""
    layers: Tensor | None = None
    """[rows, layers, hidden] float32 on the CPU."""


@contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """bf16 autocast where `precision` (fp32 or bf16) asks for it."""
    if precision != "bf16":
        yield
        return
    with torch.autocast(device.type, dtype=torch.bfloat16):
        yield


@contextmanager
def _in_full_precision() -> Iterator[None]:
    """No TF32 (nor bf16, its like on CPUs): the difference of two passes would drown in its rounding."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def as_in_evaluation(model: nn.Module) -> Iterator[None]:
    """Dropout and autocast off, matrix products in full precision, with gradients; the modes of the modules are put back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        device = next(model.parameters()).device.type
        with torch.autocast(device, enabled=False), torch.enable_grad(), _in_full_precision():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


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
            inputs = rows.inputs(chosen, rows.width(chosen, width_step(device, precision)))
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
