"""Dropout on a CPU from 16 random bits an element: a third of the time that drawing a number for each takes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

_STEPS = 2**16
_STACKED: ContextVar[Callable[[Tensor, float], Tensor] | None] = ContextVar("stacked masks", default=None)


def stacked_masks() -> Callable[[Tensor, float], Tensor] | None:
    """What drops in the pass of several students at once that is under way here (`harness.models.stacked_pass`)."""
    return _STACKED.get()


@contextlib.contextmanager
def dropping_stacked(masks: Callable[[Tensor, float], Tensor]) -> Iterator[None]:
    """Layers within drop by `masks`: (given, rate) -> what is left of it."""
    before = _STACKED.set(masks)
    try:
        yield
    finally:
        _STACKED.reset(before)


class Dropout16(nn.Dropout):
    """`nn.Dropout`, its rate rounded to 1/65536 and its scale exact for that. On other devices PyTorch's own.

    It draws from PyTorch's generator, as that does, and takes other numbers from it.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or (input.device.type != "cpu" and stacked_masks() is None):
            return super().forward(input)
        return dropped(input, self.p)


def dropped(given: Tensor, rate: float) -> Tensor:
    """`given` with a share `rate` of its elements at 0 and the others scaled up, for tensors on the CPU (stacked: on any)."""
    if (masks := stacked_masks()) is not None:
        return masks(given, rate)
    lowest = round(rate * _STEPS)  # of 0 to 65535, the least that is kept
    if lowest == 0 or lowest >= _STEPS:
        return nn.functional.dropout(given, rate)
    return given * scaled_mask(given.shape, rate).to(given.dtype)


def scaled_mask(shape: Sequence[int], rate: float, generator: torch.Generator | None = None) -> Tensor:
    """float32 of a shape: 0 for a share `rate` of elements, and for the others the factor that makes up for these. It is drawn
    from PyTorch's generator for the CPU, or another one.
    """
    lowest = round(rate * _STEPS)
    count = math.prod(shape)
    device = "cpu" if generator is None else generator.device
    bits = torch.empty(math.ceil(count / 4), dtype=torch.int64, device=device)
    bits = bits.random_(-(2**63), None, generator=generator).view(torch.int16)[:count]
    scale = _STEPS / (_STEPS - lowest)
    # 1 and more where an element is kept, 0 and less elsewhere. Comparisons would do, but booleans are slow to multiply by.
    kept = bits.to(torch.float32).sub_(lowest - _STEPS // 2 - 1).mul_(scale).clamp_(0, scale)
    return kept.view(*shape)


def draw_dropout_from_16_bits(model: nn.Module) -> None:
    """Let every plain `nn.Dropout` of the model be a `Dropout16`."""
    for module in model.modules():
        if type(module) is nn.Dropout and not module.inplace:
            as_any: Any = module
            as_any.__class__ = Dropout16
