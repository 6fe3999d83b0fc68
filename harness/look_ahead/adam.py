"""The look-ahead with the optimiser that really trains the student."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class AdamWStep:
    """The step that the student's AdamW would take on a gradient, and what it makes of a small change of that gradient.

    With the moments m, v of the steps before and the gradient g after clipping, torch.optim.AdamW steps to

        theta' = (1 - rate * decay) theta - rate * s(g),    s = m' / (sqrt(v') + eps),
        m' = (b1 m + (1 - b1) g) / c1,    v' = (b2 v + (1 - b2) g^2) / c2,

    c1 and c2 its bias corrections. The loss L at theta' changes with g by -rate * J^T grad L(theta'), J = ds/dg:

        ds/dg = (1 - b1) / c1 / (sqrt(v') + eps) - m' (1 - b2) g / (c2 sqrt(v') (sqrt(v') + eps)^2)

    for each entry, after which comes the derivative of the clipping. An entry that never had a gradient, in this batch either,
    has none: its step would be a jump.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], clip_norm: float | None) -> None:
        """`optimizer` is only read. `clip_norm`: of the gradient of all `parameters` together, as `clip_grad_norm_` has it.

        Raises ValueError for an optimizer that does not step so.
        """
        self._optimizer = optimizer
        self._parameters = list(parameters)
        self._clip_norm = clip_norm
        self._groups = _groups_of(optimizer)
        for group in optimizer.param_groups:
            decoupled = group.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW))
            coupled = bool(group.get("weight_decay")) and not decoupled
            if "betas" not in group or group.get("amsgrad") or group.get("maximize") or coupled:
                raise ValueError(
                    f"it looks ahead by AdamW's step, and the student's optimizer is {type(optimizer).__name__} with other "
                    "rules: give torch.optim.AdamW without amsgrad and maximize, or choose `look_ahead: sgd`"
                )

    def taken(self, theta: Sequence[Tensor], gradient: Sequence[Tensor], learning_rate: float) -> list[Tensor]:
        """theta', in the order of the parameters."""
        scale, _ = self._clipping(gradient)
        found = []
        for at, parameter, g in zip(theta, self._parameters, gradient, strict=True):
            first, root = self._moments(parameter, g * scale)
            group = self._groups[id(parameter)]
            step = first / (root + group["eps"])
            found.append(at * (1 - learning_rate * group["weight_decay"]) - learning_rate * step)
        return found

    def pulled_back(self, gradient: Sequence[Tensor], direction: Sequence[Tensor]) -> list[Tensor]:
        """J^T `direction`, where the step is on `gradient` before clipping."""
        scale, norm = self._clipping(gradient)
        found = []
        for parameter, g, u in zip(self._parameters, gradient, direction, strict=True):
            group = self._groups[id(parameter)]
            (b1, b2), eps = group["betas"], group["eps"]
            c1, c2 = self._corrections(parameter)
            first, root = self._moments(parameter, g * scale)
            over = 1 / (root + eps)
            slope = (1 - b1) / c1 * over - first * over.square() / root * ((1 - b2) / c2) * (g * scale)
            found.append(torch.where(root > 0, slope, 0.0) * u)
        if self._clip_norm is None:
            return found
        # c = clip / (norm + 1e-6): d (c g) / dg = c I - c / (norm (norm + 1e-6)) g g^T; c = 1 where it does not clip
        along = torch.stack([(g * x).sum() for g, x in zip(gradient, found, strict=True)]).sum()
        away = torch.where(scale < 1, along / (norm * (norm + 1e-6)), 0.0)
        return [scale * (x - away * g) for x, g in zip(found, gradient, strict=True)]

    def _clipping(self, gradient: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The factor, and the norm before it; tensors, as the device need not be waited for."""
        norm = torch.nn.utils.get_total_norm(list(gradient))
        clip = float("inf") if self._clip_norm is None else self._clip_norm
        return (clip / (norm + 1e-6)).clamp(max=1.0), norm

    def _moments(self, parameter: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """M' and sqrt(v')."""
        state = self._optimizer.state.get(parameter, {})
        b1, b2 = self._groups[id(parameter)]["betas"]
        c1, c2 = self._corrections(parameter)
        first, second = (1 - b1) * gradient, (1 - b2) * gradient.square()
        if "exp_avg" in state:
            first, second = first + b1 * state["exp_avg"], second + b2 * state["exp_avg_sq"]
        return first / c1, (second / c2).sqrt()

    def _corrections(self, parameter: Tensor) -> tuple[Any, Any]:
        """c1 and c2, in double precision: 1 - 0.999 would lose digits."""
        steps = self._optimizer.state.get(parameter, {}).get("step", 0.0)
        steps = 1 + (steps.double() if isinstance(steps, Tensor) else steps)
        b1, b2 = self._groups[id(parameter)]["betas"]
        return 1 - b1**steps, 1 - b2**steps


def adam_direction(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> Callable[[list[Tensor]], list[Tensor]]:
    """A function from a gradient, in the order of `parameters`, to g / (sqrt(v) + eps): over Adam's root mean square.

    v is what Adam's second moment would be after a step on g, bias-corrected. With the old v alone, an entry that had no
    gradient so far (the embedding of a word not seen yet) would be divided by almost 0 and outweigh all others.
    `optimizer` is Adam or AdamW over (at least) the parameters; it is only read.
    """
    groups = _groups_of(optimizer)

    def direction(gradient: list[Tensor]) -> list[Tensor]:
        return [_divided(optimizer, groups[id(p)], p, g) for p, g in zip(parameters, gradient, strict=True)]

    return direction


def _groups_of(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
    return {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}


def _divided(optimizer: torch.optim.Optimizer, group: dict[str, Any], parameter: Tensor, gradient: Tensor) -> Tensor:
    state = optimizer.state.get(parameter, {})
    beta: float = group["betas"][1]
    steps = int(state.get("step", 0)) + 1
    second = (1 - beta) * gradient.square()
    if "exp_avg_sq" in state:
        second = second + beta * state["exp_avg_sq"]
    divided: Tensor = gradient / ((second / (1 - beta**steps)).sqrt() + group["eps"])
    return divided
