"""How long a sequence a model takes is what its position embeddings hold."""

import pytest
import torch

from harness.models.build import build_model, run_model
from harness.models.families import positions_refusal, usable_positions
from harness.study.schema import ModelSpec
from tests.harness.models.families import ALL

TABLES = [
    "bert",
    "roberta",
    "electra",
    "albert",
    "mpnet",
    "squeezebert",
    "rembert",
    "convbert",
    "fnet",
    "longformer",
    "big_bird",
]


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("kind", TABLES)
def test_the_longest_row_passes_and_one_token_more_does_not(kind, padding):
    config = {**ALL[kind], "max_position_embeddings": 24, "pad_token_id": padding}
    usable = usable_positions(config)
    model = build_model(ModelSpec(config=config), 2, 0, 40).eval()

    def run(length):
        tokens = torch.full((1, length), 7)
        return run_model(model, {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}).logits

    assert run(usable).isfinite().all()
    with pytest.raises((IndexError, RuntimeError)):
        run(usable + 1)
    assert positions_refusal(config, usable) is None
    assert f"{usable}" in positions_refusal(config, usable + 1) or usable == 24


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "t5", "n_positions": 512},
        {"model_type": "xlnet", "max_position_embeddings": -1},
        {"model_type": "deberta-v2", "max_position_embeddings": 512, "position_biased_input": False},
        {},
    ],
)
def test_relative_positions_have_no_end(config):
    assert usable_positions(config) is None


def test_gpt2_calls_them_otherwise():
    assert usable_positions({"model_type": "gpt2", "n_positions": 16}) == 16
