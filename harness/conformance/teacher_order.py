"""Whether the order in which a study names its teachers matters to a strategy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from harness.conformance.tiny_training import World
from harness.conformance.watched import TOLERANCE
from harness.loss_terms.logit_terms import TERMS
from strategies.base import Context, RoleView, Setup, Strategy, Weights
from strategies.registry import Registered

Make = Callable[[Setup], Strategy]  # type: ignore[type-arg]


def teacher_order_faults(registered: Registered, world: World) -> Iterator[tuple[str, str]]:
    """Permuting the teachers must permute the weights of terms per teacher and leave the others.

    Looked at in the first step, by strategies that weigh by formulas: what draws random numbers, or has parameters of its own
    to learn, may treat teachers by their position. Terms that need more than logits and labels are left out.
    """
    needs = registered.needs(registered.settings())
    by_position = registered.strategy.learned or needs.look_ahead is not None or needs.term_gramian
    if by_position or len(world.setup.teachers) == 1 or not set(needs.terms) <= set(TERMS):
        return

    def make(setup: Setup) -> Strategy:  # type: ignore[type-arg]
        return registered.create(registered.settings(), setup)

    faults: list[str] = []
    world.run(lambda: make(world.setup), steps=1, watch=lambda strategy: _FirstStep(strategy, make, faults))
    for fault in faults:
        yield "order of the teachers", fault


class _FirstStep(Strategy):  # type: ignore[type-arg]
    """Passes everything on; in the first step, compares with a strategy whose teachers come in another order."""

    def __init__(self, inner: Strategy, make: Make, faults: list[str]) -> None:  # type: ignore[type-arg]
        super().__init__(inner.settings, inner.setup)
        self.inner = inner
        self.name = inner.name  # type: ignore[misc]
        self.shape_terms = inner.shape_terms  # type: ignore[method-assign]
        self.after_step = inner.after_step  # type: ignore[method-assign]
        self.end_epoch = inner.end_epoch  # type: ignore[method-assign]
        self._make = make
        self._faults = faults

    def weights(self, context: Context) -> Weights:
        if context.step == 0:
            self._compare(context)
        return self.inner.weights(context)

    def _compare(self, context: Context) -> None:
        teachers = len(self.setup.teachers)
        order = torch.arange(teachers).roll(1)
        plain, drawn = _weigh(self._make(self.setup), context)
        other, _ = _weigh(self._make(_setup_permuted(self.setup, order)), _permuted(context, order))
        if drawn:
            return
        for term, weight in plain.items():
            expected = weight[order] if weight.dim() == 2 and len(weight) == teachers else weight
            if expected.shape != other[term].shape or not torch.allclose(expected, other[term], rtol=TOLERANCE, atol=TOLERANCE):
                self._faults.append(
                    f"the weight of {term!r} depends on the order in which the study names the teachers. Compute every "
                    "teacher's weight by the same formula, from context.teacher_logits[k] and what belongs to it, or draw "
                    "teachers with context.generator"
                )


def _weigh(strategy: Strategy, context: Context) -> tuple[dict[str, Tensor], bool]:  # type: ignore[type-arg]
    """A fresh strategy's weights, and whether it drew from the context's generator."""
    generator = torch.Generator()
    generator.set_state(context.generator.get_state())
    context = replace(context, generator=generator)
    before = generator.get_state()
    strategy.shape_terms(replace(context, terms={}))
    weights = {name: torch.as_tensor(w, dtype=torch.float32).detach() for name, w in strategy.weights(context).items()}
    return weights, not torch.equal(before, generator.get_state())


def _permuted(context: Context, order: Tensor) -> Context:
    features = context.teacher_features
    return replace(
        context,
        teacher_logits=context.teacher_logits[order],
        terms={name: term[order] if term.dim() == 2 else term for name, term in context.terms.items()},
        teacher_features=None if features is None else tuple(features[int(k)] for k in order),
    )


def _setup_permuted(setup: Setup, order: Tensor) -> Setup:
    def view(rows: RoleView) -> RoleView:
        return replace(rows, teacher_logits=rows.teacher_logits[order])

    return replace(
        setup,
        teachers=tuple(setup.teachers[int(k)] for k in order),
        teacher_hidden_sizes=tuple(setup.teacher_hidden_sizes[int(k)] for k in order),
        fit=view(setup.fit),
        meta=None if setup.meta is None else view(setup.meta),
    )
