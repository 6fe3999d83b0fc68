"""Lean layers give what transformers' own give; dropout keeps as many elements as it says, and the mean."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.look_ahead.directional import along_double_backward, along_forward_mode
from harness.models.build import build_model, run_model
from harness.models.dropout import Dropout16, dropped
from harness.models.evaluate import autocast
from harness.study.schema import ModelSpec
from tests.harness.small_models import as_transformers_has_it

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64, "initializer_range": 0.3}
CPU = torch.device("cpu")


def lean_and_own(kind: str, **changes: Any) -> tuple[Any, Any]:
    spec = ModelSpec(config={"model_type": kind, "max_position_embeddings": 40, **SIZES}, **{"dropout": 0.0, **changes})
    lean = build_model(spec, 3, 0, 50).double()
    return lean, as_transformers_has_it(copy.deepcopy(lean))


def inputs(kind: str, padded: bool = True) -> dict[str, Tensor]:
    ids = torch.randint(5, 50, (6, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    if padded:
        for row in range(1, 6):
            mask[row, 9 - row :] = 0
    ids = ids.masked_fill(mask == 0, 1 if kind == "roberta" else 0)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": (ids > 20).long() * mask}


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("changes", [{}, {"pooling": "mean"}, {"layers": [0, 2]}])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_outputs_and_gradients_are_those_of_the_models_own_layers(kind: str, changes: dict[str, Any], padded: bool) -> None:
    found = []
    for model in lean_and_own(kind, **changes):
        outputs = run_model(model, inputs(kind, padded), features=True, layers=True)
        assert outputs.features is not None
        assert outputs.layers is not None
        loss = outputs.logits.square().sum() + outputs.features.sum() + outputs.layers.square().sum()
        loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append({"logits": outputs.logits, "features": outputs.features, "layers": outputs.layers, **gradients})
    assert found[0].keys() == found[1].keys()
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name], rtol=1e-9, atol=1e-9, msg=name)


def test_in_bf16_the_gradient_is_as_near_to_the_exact_one_as_that_of_the_models_own_layers() -> None:
    def gradient(model: Any, precision: str) -> Tensor:
        model = copy.deepcopy(model).float()
        with autocast(CPU, precision):
            logits = run_model(model, inputs("bert")).logits
        logits.square().sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    lean, own = lean_and_own("bert")
    exact = gradient(own, "fp32")
    assert gradient(lean, "bf16").dtype == torch.float32
    errors = [float((gradient(model, "bf16") - exact).norm() / exact.norm()) for model in (lean, own)]
    assert 0 < errors[0] < 1.5 * errors[1]


def test_with_dropout_they_can_be_differentiated_forward_and_twice() -> None:
    """What the look-ahead's engines do; masks come from the same state of the generator."""
    lean, _ = lean_and_own("bert", dropout=0.3)
    names = [name for name, _ in lean.named_parameters()]
    theta = [p.detach() for p in lean.parameters()]
    direction = [torch.randn(p.shape, generator=torch.Generator().manual_seed(2), dtype=p.dtype) for p in theta]

    def terms_at(parameters: Sequence[Tensor]) -> dict[str, Tensor]:
        torch.manual_seed(3)
        given = dict(zip(names, parameters, strict=True))
        return {"ce": torch.func.functional_call(lean, given, (), inputs("bert")).logits.square().sum(1)}

    forward, twice = (along(terms_at, theta, direction)["ce"] for along in (along_forward_mode, along_double_backward))
    torch.testing.assert_close(forward, twice, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dropout_keeps_its_share_and_the_mean(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    given = torch.ones(401, 503, dtype=dtype)  # no multiple of four
    found = dropped(given, rate)
    assert found.dtype == dtype
    kept = (found != 0).double().mean()
    deviation = (rate * (1 - rate) / given.numel()) ** 0.5
    assert abs(float(kept) - (1 - rate)) < 4 * deviation
    assert len(found.unique()) == 2
    assert float(found.max()) == pytest.approx(1 / (1 - rate), rel=5e-3 if dtype == torch.bfloat16 else 1e-4)
    neighbours = ((found[:, 1:] != 0) & (found[:, :-1] != 0)).double().mean()
    assert float(neighbours) == pytest.approx((1 - rate) ** 2, abs=0.01)


def test_the_same_state_of_the_generator_gives_the_same_mask_in_every_precision() -> None:
    masks = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(4)
        masks.append(dropped(torch.ones(33, 7, dtype=dtype), 0.3) != 0)
    assert torch.equal(*masks)
    assert not torch.equal(masks[0], dropped(torch.ones(33, 7), 0.3) != 0)


@pytest.mark.parametrize("rate", [0.0, 1.0, 1e-7])
def test_the_ends_are_pytorchs_own(rate: float) -> None:
    found = dropped(torch.ones(100), rate)
    torch.testing.assert_close(found, torch.zeros(100) if rate == 1 else torch.ones(100))


def test_evaluation_drops_nothing() -> None:
    given = torch.randn(5)
    assert Dropout16(0.5).eval()(given) is given
