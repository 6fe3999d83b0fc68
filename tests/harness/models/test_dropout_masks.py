"""Masks that are drawn once: the CPU's passes do not need them, and show here what a GPU's do with them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.models.build import run_model
from harness.models.dropout_masks import DropoutMasks, _Given
from tests.harness.look_ahead.looking_ahead import make_batch, student
from tests.harness.small_models import as_transformers_has_it

CPU = torch.device("cpu")


@pytest.mark.parametrize("config", [{}, {"model_type": "distilbert", "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}])
def test_repeated_passes_have_the_first_one_s_masks(config: dict) -> None:
    model, inputs = as_transformers_has_it(student(**config)).train(), make_batch(2, 8, 1).inputs
    masks = DropoutMasks(CPU)
    with masks.drawn():
        first = run_model(model, inputs).logits
    for seed in range(2):
        torch.manual_seed(seed)  # whatever the generator's state
        with masks.again():
            torch.testing.assert_close(run_model(model, inputs).logits, first)
    with masks.drawn():
        assert not torch.allclose(run_model(model, inputs).logits, first)
    model.eval()
    undropped = run_model(model, inputs).logits
    with masks.again():
        assert torch.equal(run_model(model, inputs).logits, undropped)


def test_another_pass_is_refused() -> None:
    model = as_transformers_has_it(student()).train()
    masks = DropoutMasks(CPU)
    with masks.drawn():
        run_model(model, make_batch(2, 8, 1).inputs)
    with masks.again(), pytest.raises(RuntimeError, match=r"asks for a dropout mask \(7, .* did not draw"):
        run_model(model, make_batch(2, 7, 1).inputs)


def test_what_is_kept_is_scaled_so_that_the_mean_stays() -> None:
    given = torch.ones(200, 200)
    with DropoutMasks(CPU).drawn():
        dropped = F.dropout(given, 0.25)
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert float(dropped.mean()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("boolean", [True, False])
def test_attention_is_pytorch_s(boolean: bool) -> None:
    """It is linear in its probabilities: where all are kept, it is that without dropout, scaled."""
    query, key, value = torch.randn(3, 2, 4, 6, 8, generator=torch.Generator().manual_seed(1))
    allowed = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    allowed[..., 4:] = False
    mask = allowed if boolean else torch.zeros(2, 1, 6, 6).masked_fill(~allowed, float("-inf"))

    def all_kept(shape: torch.Size, rate: float) -> Tensor:
        return torch.ones(shape, dtype=torch.bool)

    with _Given(all_kept):
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=0.2)
    torch.testing.assert_close(found, F.scaled_dot_product_attention(query, key, value, attn_mask=mask) / 0.8)
