"""Dropout on a CPU from 16 random bits an element: a third of the time that drawing a number for each takes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

_STEPS = 2**16


class Dropout16(nn.Dropout):
    """`nn.Dropout`, its rate rounded to 1/65536 and its scale exact for that. On other devices PyTorch's own.

    It draws from PyTorch's generator, as that does, and takes other numbers from it.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or input.device.type != "cpu":
            return super().forward(input)
        return dropped(input, self.p)


def dropped(given: Tensor, rate: float) -> Tensor:
    """`given` with a share `rate` of its elements at 0 and the others scaled up, for tensors on the CPU."""
    lowest = round(rate * _STEPS)  # of 0 to 65535, the least that is kept
    if lowest == 0 or lowest >= _STEPS:
        return nn.functional.dropout(given, rate)
    count = given.numel()
    bits = torch.empty(math.ceil(count / 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]
    scale = _STEPS / (_STEPS - lowest)
    # 1 and more where an element is kept, 0 and less elsewhere. Comparisons would do, but booleans are slow to multiply by.
    kept = bits.to(torch.float32).sub_(lowest - _STEPS // 2 - 1).mul_(scale).clamp_(0, scale)
    return given * kept.view(given.shape).to(given.dtype)


def draw_dropout_from_16_bits(model: nn.Module) -> None:
    """Let every plain `nn.Dropout` of the model be a `Dropout16`."""
    for module in model.modules():
        if type(module) is nn.Dropout and not module.inplace:
            as_any: Any = module
            as_any.__class__ = Dropout16
