from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from harness.look_ahead.adam import AdamWStep, adam_direction
from harness.look_ahead.look_ahead import LookAhead
from harness.models.build import run_model
from tests.harness.look_ahead.looking_ahead import ENGINES, TERMS, cosine, make_batch, part, some_weights, student

RATE = 1e-2


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_the_direction_is_the_step_that_adam_without_momentum_takes(steps):
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.randn(4, 3, generator=generator).requires_grad_(), torch.randn(3, generator=generator).requires_grad_()]
    optimizer = torch.optim.AdamW(parameters, lr=0.1, betas=(0.0, 0.99), weight_decay=0.0)

    def gradients():
        return [torch.randn(p.shape, generator=generator) for p in parameters]

    for _ in range(steps):
        for parameter, gradient in zip(parameters, gradients(), strict=True):
            parameter.grad = gradient
        optimizer.step()
    gradient = gradients()
    state = copy.deepcopy(optimizer.state_dict())
    found = adam_direction(optimizer, parameters)([g.clone() for g in gradient])
    torch.testing.assert_close(optimizer.state_dict(), state, rtol=0, atol=0)
    before = [p.detach().clone() for p in parameters]
    for parameter, one in zip(parameters, gradient, strict=True):
        parameter.grad = one
    optimizer.step()
    taken = [(old - new.detach()) / 0.1 for old, new in zip(before, parameters, strict=True)]
    torch.testing.assert_close(found, taken, rtol=1e-4, atol=1e-5)


def test_an_entry_without_a_gradient_so_far_does_not_outweigh_the_others():
    parameter = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.0)
    for _ in range(50):
        parameter.grad = torch.tensor([1.0, 0.0])
        optimizer.step()
    (found,) = adam_direction(optimizer, [parameter])([torch.tensor([1.0, 1e-3])])
    assert found[0] == pytest.approx(1.0, rel=1e-3)
    assert found[1] < 10


class RealAdamW:
    """A student in double precision whose own AdamW has taken some steps; the truth is what it does, once more."""

    def __init__(self, steps: int, clip_norm: float) -> None:
        self.model = student(attention="eager", num_hidden_layers=1).double().eval()
        self.clip_norm = clip_norm
        matrices, rest = ([p for p in self.model.parameters() if (p.dim() > 1) is m] for m in (True, False))
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=RATE)
        for step in range(steps):
            self.step(
                {"ce": torch.rand(8, dtype=torch.float64), "kd": torch.rand(8, dtype=torch.float64)},
                make_batch(2, 8, 10 + step),
            )

    def step(self, weights: Any, batch: Any) -> None:
        self.optimizer.zero_grad()
        terms = TERMS(run_model(self.model, batch.inputs), batch)
        sum((weights[name] * value).sum() for name, value in terms.items()).div(len(batch.ids)).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()

    def meta_loss_after(self, weights: Any, batch: Any, meta: Any) -> float:
        parameters, state = copy.deepcopy(self.model.state_dict()), copy.deepcopy(self.optimizer.state_dict())
        self.step(weights, batch)
        with torch.no_grad():
            found = float(torch.nn.functional.cross_entropy(run_model(self.model, meta.inputs).logits, meta.labels))
        self.model.load_state_dict(parameters)
        self.optimizer.load_state_dict(state)
        self.optimizer.zero_grad()
        return found

    def look_ahead(self, engine: Any, step: Any = "adamw") -> LookAhead:
        made = LookAhead(self.model, TERMS, engine, step=step)
        made.optimizer_step = AdamWStep(self.optimizer, made.parameters, self.clip_norm)
        return made


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("steps", "clip_norm"), [(1, 1e9), (6, 1e9), (6, 0.1)])
def test_influences_are_the_derivatives_of_what_the_real_optimiser_does(engine: str, steps: int, clip_norm: float) -> None:
    """-rate / rows * a = d L_meta / d w, by central differences of real steps: moments, corrections, decay and clipping."""
    torch.manual_seed(0)
    real, change = RealAdamW(steps, clip_norm), 1e-5
    batch, meta = make_batch(2, 8, 1), make_batch(2, 6, 2)
    weights = {name: value.double() for name, value in some_weights(8).items()}
    real.step(weights, batch)  # a step of this very batch lies behind
    expected = {}
    for name in weights:
        moved = [[{**weights, name: weights[name] + sign * change * torch.eye(8)[i]} for sign in (1, -1)] for i in range(8)]
        losses = [[real.meta_loss_after(one, batch, meta) for one in pair] for pair in moved]
        expected[name] = torch.tensor([(up - down) / (2 * change) * -8 / RATE for up, down in losses])
    found = real.look_ahead(engine).influence(batch, meta, RATE, weights)
    assert cosine(found, expected) > 0.9999
    for name in expected:
        torch.testing.assert_close(
            found[name], expected[name].double(), rtol=0.02, atol=0.02 * float(expected[name].abs().max())
        )
    if clip_norm < 1:  # the case is one of clipping
        unclipped = LookAhead(real.model, TERMS, "exact", step="adamw")
        unclipped.optimizer_step = AdamWStep(real.optimizer, unclipped.parameters, None)
        assert cosine(unclipped.influence(batch, meta, RATE, weights), expected) < 0.999


def test_the_point_alone_is_where_the_real_optimiser_goes() -> None:
    """LGTM's influence: the meta gradient after the real step, and gradients of the terms before it."""
    real = RealAdamW(3, 0.5)
    batch, meta, weights = make_batch(2, 8, 1), make_batch(2, 6, 2), {n: w.double() for n, w in some_weights(8).items()}
    found = real.look_ahead("exact", "adamw_point").influence(batch, meta, RATE, weights)
    parameters = list(real.model.parameters())
    before = [
        [torch.autograd.grad(one, parameters, allow_unused=True, materialize_grads=True) for one in value]
        for value in [
            [
                TERMS(run_model(real.model, part(batch, slice(i, i + 1)).inputs), part(batch, slice(i, i + 1)))[name].sum()
                for i in range(8)
            ]
            for name in ("ce", "kd")
        ]
    ]
    real.step(weights, batch)
    real.optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(run_model(real.model, meta.inputs).logits, meta.labels)
    there = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    for name, gradients in zip(("ce", "kd"), before, strict=True):
        expected = torch.stack([sum((u * g).sum() for u, g in zip(there, one, strict=True)) for one in gradients])
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-8)


def test_an_entry_that_never_had_a_gradient_has_no_influence() -> None:
    parameter = torch.zeros(2, requires_grad=True)
    step = AdamWStep(torch.optim.AdamW([parameter], lr=0.1), [parameter], None)
    (found,) = step.taken([torch.zeros(2)], [torch.tensor([1e-8, 0.0])], 0.1)[1]([torch.ones(2)])
    assert found[0] > 1e3
    assert found[1] == 0.0


def test_what_does_not_go_together_is_said() -> None:
    model = student()
    for options in ({"layers": 1}, {"precondition": lambda g: g}, {"step": "newton"}):
        with pytest.raises(ValueError, match="step"):
            LookAhead(model, TERMS, "fd", **{"step": "adamw", **options})
    look_ahead = LookAhead(model, TERMS, "fd", step="adamw")
    look_ahead.optimizer_step = AdamWStep(torch.optim.AdamW(model.parameters()), look_ahead.parameters, 1.0)
    with pytest.raises(ValueError, match="with the weights"):
        look_ahead.influence(make_batch(2, 4, 1), make_batch(2, 4, 2), 0.1)
    for optimizer in (torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.Adam(model.parameters(), weight_decay=0.1)):
        with pytest.raises(ValueError, match=type(optimizer).__name__):
            AdamWStep(optimizer, look_ahead.parameters, 1.0)
