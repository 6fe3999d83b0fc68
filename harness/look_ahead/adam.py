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

    def taken(
        self, theta: Sequence[Tensor], gradient: Sequence[Tensor], learning_rate: float
    ) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], list[Tensor]]]:
        """theta', in the order of the parameters, after the step on `gradient`; and u -> J^T u.

        Written to read and write each tensor few times: beside short texts, passes over parameters count.
        """
        scale, norm = self._clipping(gradient)
        places, slopes = [], []
        for at, parameter, g, done in zip(
            theta, self._parameters, gradient, _steps(self._optimizer, self._parameters), strict=True
        ):
            group, state = self._groups[id(parameter)], self._optimizer.state.get(parameter, {})
            b1, b2 = group["betas"]
            c1, c2 = 1 - b1 ** (done + 1), 1 - b2 ** (done + 1)
            g = g * scale
            first, second = g * ((1 - b1) / c1), g.square().mul_((1 - b2) / c2)
            if "exp_avg" in state:
                first.add_(state["exp_avg"], alpha=b1 / c1)
                second.add_(state["exp_avg_sq"], alpha=b2 / c2)
            root = second.sqrt_()
            over = root + group["eps"]
            place = at * (1 - learning_rate * group["weight_decay"])
            places.append(place.addcdiv_(first, over, value=-learning_rate))
            slope = first.mul_(g).div_(root).div_(over).mul_((b2 - 1) / c2).add_((1 - b1) / c1).div_(over)
            slopes.append(slope.masked_fill_(root == 0, 0.0))

        def pulled_back(direction: Sequence[Tensor]) -> list[Tensor]:
            found = [slope * u for slope, u in zip(slopes, direction, strict=True)]
            if self._clip_norm is None:
                return found
            # c = clip / (norm + 1e-6): d (c g) / dg = c I - c / (norm (norm + 1e-6)) g g^T; c = 1 where it does not clip
            along = torch.stack([torch.dot(g.flatten(), x.flatten()) for g, x in zip(gradient, found, strict=True)]).sum()
            away = scale * torch.where(scale < 1, along / (norm * (norm + 1e-6)), 0.0)
            return [x.mul_(scale).sub_(g * away) for x, g in zip(found, gradient, strict=True)]

        return places, pulled_back

    def _clipping(self, gradient: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The factor, and the norm before it; tensors, as the device need not be waited for."""
        norm = torch.nn.utils.get_total_norm(list(gradient))
        clip = float("inf") if self._clip_norm is None else self._clip_norm
        return (clip / (norm + 1e-6)).clamp(max=1.0), norm


def adam_direction(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> Callable[[list[Tensor]], list[Tensor]]:
    """A function from a gradient, in the order of `parameters`, to g / (sqrt(v) + eps): over Adam's root mean square.

    v is what Adam's second moment would be after a step on g, bias-corrected. With the old v alone, an entry that had no
    gradient so far (the embedding of a word not seen yet) would be divided by almost 0 and outweigh all others.
    `optimizer` is Adam or AdamW over (at least) the parameters; it is only read.
    """
    groups = _groups_of(optimizer)

    def direction(gradient: list[Tensor]) -> list[Tensor]:
        found = list(gradient)
        kinds: dict[tuple[float, float, bool], list[int]] = {}  # of one kind together: few launches
        for index, parameter in enumerate(parameters):
            rules = groups[id(parameter)]
            kind = rules["betas"][1], rules["eps"], "step" in optimizer.state.get(parameter, {})
            kinds.setdefault(kind, []).append(index)
        for (beta, eps, stepped), indices in kinds.items():
            given = [gradient[index] for index in indices]
            states = [optimizer.state[parameters[index]] for index in indices] if stepped else []
            for index, divided in zip(indices, _divided(given, states, beta, eps), strict=True):
                found[index] = divided
        return found

    return direction


def _groups_of(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
    return {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}


def _steps(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> list[int]:
    """Done so far on each parameter."""
    states = [optimizer.state.get(parameter, {}) for parameter in parameters]
    known = [torch.as_tensor(state["step"]) for state in states if "step" in state]
    found = iter(torch.stack(known).tolist() if known else [])  # together: a device is waited for once
    return [int(next(found)) if "step" in state else 0 for state in states]


def _divided(gradient: list[Tensor], states: list[dict[str, Any]], beta: float, eps: float) -> list[Tensor]:
    """`states`: the optimizer's, or none where it has not stepped yet. Waits for no device."""
    second = list(torch._foreach_mul(gradient, gradient))
    torch._foreach_mul_(second, 1 - beta)
    corrections: list[Tensor] | float = 1 - beta
    if states:
        torch._foreach_add_(second, [state["exp_avg_sq"] for state in states], alpha=beta)
        steps = torch.stack([torch.as_tensor(state["step"]) for state in states]).double() + 1  # 1 - beta is small
        corrections = list((1 - beta**steps).to(second[0]).unbind())
    torch._foreach_div_(second, corrections)
    torch._foreach_sqrt_(second)
    torch._foreach_add_(second, eps)
    return list(torch._foreach_div(gradient, second))
