"""Floating-point operations of a training step, and what a GPU could do in the time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

DENSE_BF16_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
"""Without sparsity, from the makers' data sheets, by a part of the device's name."""


def flops_a_sample(config: Mapping[str, Any], length: float) -> float:
    """Of a training step, forward and backward: three times the forward pass. `length`: tokens of the sample.

    Two operations a parameter used and token, embeddings left out (above its attention the last layer computes one token), and
    attention's own.
    """
    hidden, layers, inner = config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"]
    a_layer = 4 * hidden**2 + 2 * hidden * inner
    first_token_only = hidden**2 + 2 * hidden * inner
    attention = layers * 2 * length**2 * hidden
    return 6.0 * (length * a_layer * layers - (length - 1) * first_token_only + attention)


def utilisation(flops_a_second: float) -> float | None:
    """Model-FLOP utilisation in percent of the device's dense bf16 peak; None where that is not known."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    peaks = [peak for part, peak in DENSE_BF16_FLOPS.items() if part in device]
    return 100 * flops_a_second / peaks[0] if peaks else None


def as_text(percent: float | None) -> str:
    return "" if percent is None else f", MFU {percent:.2f} %"
