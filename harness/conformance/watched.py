"""A strategy watched from outside: what it returns, what it touches, and whether the order of the batch matters to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from strategies.base import Context, Strategy, Weights
from strategies.registry import Wrapper

TOLERANCE = 1e-3


class Watched(Wrapper):
    """Passes everything on to the strategy; notes what is wrong in `faults`, each once."""

    def __init__(self, inner: Strategy[Any], make: Callable[[], Strategy[Any]], faults: dict[str, str]) -> None:
        """`make`: a new strategy like `inner`. `faults`: check -> what is wrong, filled here."""
        super().__init__(inner.settings, inner.setup, inner)
        self.name = inner.name  # type: ignore[misc]
        self._make = make
        self._faults = faults

    def weights(self, context: Context) -> Weights:
        self._check_order(context)
        before = _tensors(context)
        copies = {name: tensor.clone() for name, tensor in before.items()}
        global_state = torch.get_rng_state()
        weights = self.inner.weights(context)
        if not torch.equal(global_state, torch.get_rng_state()):
            self._note(
                "randomness",
                "weights() draws from torch's global generator, which differs between ranks and is not the strategy's to use. "
                "Pass generator=context.generator to every random function",
            )
        if changed := [name for name, tensor in before.items() if not torch.equal(tensor, copies[name])]:
            self._note("context untouched", f"weights() changes {', '.join(changed)} of its context in place. Work on a copy")
        for term, weight in weights.items():
            self._check_weight(context, term, weight)
        return weights

    def _note(self, check: str, message: str) -> None:
        self._faults.setdefault(check, message)

    def _check_weight(self, context: Context, term: str, weight: Tensor | float) -> None:
        if isinstance(weight, Tensor) and weight.requires_grad:
            self._note(
                "detached",
                f"the weight of {term!r} carries a graph. Compute it under torch.no_grad() or end with .detach(): a weight "
                "that the student's gradient flows through teaches the student to lower its weights",
            )
        if not torch.as_tensor(weight).isfinite().all():
            self._note(
                "finite",
                f"the weight of {term!r} is not finite at step {context.step}. Look for a division by a loss, norm or sum that "
                "can be 0, and for the logarithm of a probability",
            )

    def _check_order(self, context: Context) -> None:
        """Permuting the batch must permute the weights, unless random numbers are drawn for the samples."""
        size = len(context.ids)
        order = torch.arange(size).roll(3)
        plain, drawn = self._weigh(context)
        permuted, _ = self._weigh(_permuted(context, order))
        for term, weight in plain.items():
            expected = weight[..., order] if weight.dim() > 0 and weight.shape[-1] == size else weight
            other = permuted[term]
            if expected.shape == other.shape and torch.allclose(expected, other, rtol=TOLERANCE, atol=TOLERANCE):
                continue
            if drawn:  # who gets which draw depends on the position, rightly so
                continue
            self._note(
                "order of the batch",
                f"the weight of {term!r} depends on where in the batch a sample stands. Find samples by context.ids, not by "
                "their position, and do not sort or slice the batch without going back to its order",
            )

    def _weigh(self, context: Context) -> tuple[dict[str, Tensor], bool]:
        """The weights from a copy of the strategy, and whether it drew from the context's generator."""
        copy = self._make()
        copy.load_state_dict(self.inner.state_dict())
        generator = torch.Generator()
        generator.set_state(context.generator.get_state())
        copy.shape_terms(replace(context, generator=generator, terms={}))
        weights = copy.weights(replace(context, generator=generator))
        drawn = not torch.equal(generator.get_state(), context.generator.get_state())
        return {name: torch.as_tensor(weight, dtype=torch.float32).detach() for name, weight in weights.items()}, drawn


def _tensors(context: Context) -> dict[str, Tensor]:
    found = {field.name: getattr(context, field.name) for field in fields(context)}
    found |= {f"terms[{name!r}]": term for name, term in context.terms.items()}
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def _permuted(context: Context, order: Tensor) -> Context:
    """The same step, the batch in another order."""
    back = order.argsort()

    def look_ahead(weights: Weights | None = None, ids: Tensor | None = None) -> dict[str, Tensor]:
        assert context.look_ahead is not None
        if ids is not None:  # rows that the strategy chose, in its own order
            return context.look_ahead(weights, ids)
        if weights is not None:
            full = {name: torch.as_tensor(weight) for name, weight in weights.items()}
            weights = {n: w[..., back] if w.dim() > 0 and w.shape[-1] == len(order) else w for n, w in full.items()}
        return {name: influence[..., order] for name, influence in context.look_ahead(weights).items()}

    return replace(
        context,
        ids=context.ids[order],
        labels=context.labels[order],
        student_logits=context.student_logits[order],
        teacher_logits=context.teacher_logits[:, order],
        terms={name: term[..., order] for name, term in context.terms.items()},
        student_features=None if context.student_features is None else context.student_features[order],
        teacher_features=None if context.teacher_features is None else tuple(f[order] for f in context.teacher_features),
        look_ahead=None if context.look_ahead is None else look_ahead,
    )
