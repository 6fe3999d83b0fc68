"""Three ways to the derivative of per-sample terms along one direction in parameter space.

Each takes a function from parameters to terms (name -> [batch] or [teachers, batch]), the point theta, and a direction v, and
gives < v, grad term[m, i](theta) > for every term m and sample i.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

TermsAt = Callable[[Sequence[Tensor]], dict[str, Tensor]]


def along_double_backward(terms_at: TermsAt, theta: Sequence[Tensor], direction: Sequence[Tensor]) -> dict[str, Tensor]:
    """The derivative of < v, grad( sum w * term ) > in the weights w of the terms, by autograd's double backward.

    This is the chain rule of the literal look-ahead; slow, and exact to rounding.
    """
    leaves = [tensor.detach().requires_grad_() for tensor in theta]
    terms = terms_at(leaves)
    weights = [torch.zeros_like(value, requires_grad=True) for value in terms.values()]
    weighted = torch.stack([(w * value).sum() for w, value in zip(weights, terms.values(), strict=True)]).sum()
    gradient = torch.autograd.grad(weighted, leaves, create_graph=True, materialize_grads=True)
    used = [(g, v) for g, v in zip(gradient, direction, strict=True) if g.requires_grad]
    found = torch.autograd.grad([g for g, _ in used], weights, [v for _, v in used], materialize_grads=True)
    return dict(zip(terms, found, strict=True))


def along_forward_mode(terms_at: TermsAt, theta: Sequence[Tensor], direction: Sequence[Tensor]) -> dict[str, Tensor]:
    """One pass of forward-mode automatic differentiation: exact to rounding, about two forward passes."""
    with torch.no_grad(), warnings.catch_warnings():
        # at its first use, torch's forward mode scripts functions and warns of its own doing
        warnings.filterwarnings("ignore", message="`torch.jit.script", category=DeprecationWarning)
        tangents = torch.func.jvp(lambda *parameters: terms_at(parameters), tuple(theta), tuple(direction))[1]
    return dict(tangents)


def along_difference(
    terms_at: TermsAt,
    theta: Sequence[Tensor],
    direction: Sequence[Tensor],
    radius: float,
    base_terms: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """A difference of two passes without a graph: at theta + r v and theta - r v, an error of second order in the radius.

    With `base_terms`, the terms at theta, one pass at theta + r v is enough; the error is then of first order.
    r = radius / |v|, so that the step has the length `radius` whatever the scale of v. With `base_terms`, `direction` is
    overwritten, which saves a copy of it.
    """
    given = list(direction)
    with torch.no_grad():
        # a tensor, for which no device is waited; where there is no direction, any step gives differences of 0
        length = torch.stack(list(torch._foreach_norm(given))).norm().clamp_min(torch.finfo(torch.float32).tiny)
        step = radius / length
        if base_terms is not None:
            for at, v in zip(theta, given, strict=True):
                torch.addcmul(at, v, step, out=v)  # read and written once: beside short texts, passes over parameters count
            return {name: (value - base_terms[name].detach()) / step for name, value in terms_at(given).items()}
        above = terms_at([torch.addcmul(at, v, step) for at, v in zip(theta, given, strict=True)])
        below = terms_at([torch.addcmul(at, v, step, value=-1) for at, v in zip(theta, given, strict=True)])
        return {name: (value - below[name]) / (2 * step) for name, value in above.items()}


def aliases(tensors: Sequence[Tensor]) -> list[Tensor]:
    """New leaves on the same memory."""
    return [tensor.detach() for tensor in tensors]


def largest_weight(weights: Mapping[str, Tensor | float]) -> float:
    """In absolute value. Waits for the device."""
    return float(torch.stack([torch.as_tensor(weight).abs().max() for weight in weights.values()]).max())
