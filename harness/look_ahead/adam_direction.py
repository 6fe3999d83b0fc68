"""The look-ahead with the optimiser that really trains the student."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def adam_direction(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> Callable[[list[Tensor]], list[Tensor]]:
    """A function from a gradient, in the order of `parameters`, to g / (sqrt(v) + eps): over Adam's root mean square.

    v is what Adam's second moment would be after a step on g, bias-corrected. With the old v alone, an entry that had no
    gradient so far (the embedding of a word not seen yet) would be divided by almost 0 and outweigh all others.
    `optimizer` is Adam or AdamW over (at least) the parameters; it is only read.
    """
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}

    def direction(gradient: list[Tensor]) -> list[Tensor]:
        return [_divided(optimizer, groups[id(p)], p, g) for p, g in zip(parameters, gradient, strict=True)]

    return direction


def _divided(optimizer: torch.optim.Optimizer, group: dict[str, Any], parameter: Tensor, gradient: Tensor) -> Tensor:
    state = optimizer.state.get(parameter, {})
    beta: float = group["betas"][1]
    steps = int(state.get("step", 0)) + 1
    second = (1 - beta) * gradient.square()
    if "exp_avg_sq" in state:
        second = second + beta * state["exp_avg_sq"]
    divided: Tensor = gradient / ((second / (1 - beta**steps)).sqrt() + group["eps"])
    return divided
