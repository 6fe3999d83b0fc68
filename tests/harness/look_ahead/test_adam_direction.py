from __future__ import annotations

import copy

import pytest
import torch

from harness.look_ahead.adam_direction import adam_direction


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
