import pytest
import torch

from harness.models.build import build_model, run_model
from harness.models.pooling import mean_over_tokens
from harness.study.schema import ModelSpec
from tests.harness.models.families import ALL, ENCODER_DECODERS

TOKENS = torch.tensor([[5, 6, 7, 8, 9, 0], [5, 9, 3, 0, 0, 0]])
MASK = (TOKENS > 0).long()
LAST_LAYER = ("layer.1", "layers.1", "h.1", "albert_layers.0")
UNSEEN = ("funnel", "xlnet", "fnet", "convbert", "squeezebert")
"""Refused; padded left; passed row by row (two of them); and one that calls its layers past their hooks."""


def test_the_mean_is_over_tokens_and_not_over_padding():
    hidden = torch.randn(2, 6, 4)
    found = mean_over_tokens(hidden, MASK)
    torch.testing.assert_close(found, torch.stack([hidden[0, :5].mean(0), hidden[1, :3].mean(0)]))


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind not in (*UNSEEN, *ENCODER_DECODERS)])
def test_a_classifier_of_the_mean_reads_every_token_and_no_padding(kind):
    spec = ModelSpec(config={"pad_token_id": 0, **ALL[kind]}, dropout=0.0, pooling="mean")
    model = build_model(spec, 3, 0, 40).eval()
    states = []

    def note(_, __, output):
        states.append(output[0] if isinstance(output, tuple) else output)
        states[-1].retain_grad()

    # the hook comes before what pools
    last = [module for name, module in model.base_model.named_modules() if name.endswith(LAST_LAYER)][-1]
    last.register_forward_hook(note)
    found = run_model(model, {"input_ids": TOKENS, "attention_mask": MASK}, features=True)
    found.logits.square().sum().backward()
    read = states[-1].grad[:, :6].abs().sum(-1) > 0
    assert torch.equal(read, MASK.bool())
    assert found.features.shape == (2, 16)


def test_nothing_but_the_mean_counts():
    """Without positions, a bag of words: the order of tokens does not matter to a mean, and does to a last token."""
    config = {"pad_token_id": 0, **ALL["gpt2"], "n_layer": 1}
    for pooling, alike in (("mean", True), ("own", False)):
        model = build_model(ModelSpec(config=config, pooling=pooling), 3, 0, 40).eval()
        model.transformer.wpe.weight.data.zero_()
        model.transformer.h[0].attn.c_proj.weight.data.zero_()
        with torch.no_grad():
            ahead, back = (
                run_model(model, {"input_ids": row, "attention_mask": torch.ones_like(row)}, features=True)
                for row in (TOKENS[:1, :5], TOKENS[:1, :5].flip(1))
            )
        assert torch.allclose(ahead.logits, back.logits, atol=1e-5) == alike
        assert torch.allclose(ahead.features, back.features, atol=1e-5) == alike
