"""Each family of sequence classifiers, small enough to make in a test. Initial weights are large, so that rows differ."""

from __future__ import annotations

from typing import Any

import pytest

_SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_GROUPS = {f"{name}_groups": 1 for name in ("q", "k", "v", "post_attention", "intermediate", "output")}
_TWO_STACKS = {
    f"{stack}_{name}": value
    for stack in ("encoder", "decoder")
    for name, value in (("layers", 2), ("attention_heads", 2), ("ffn_dim", 32))
}

ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {**_SMALL, "initializer_range": 0.2},
    "roberta": {**_SMALL, "initializer_range": 0.2},
    "electra": {**_SMALL, "embedding_size": 8, "initializer_range": 0.2},
    "albert": {**_SMALL, "embedding_size": 8, "initializer_range": 0.2},
    "modernbert": {**_SMALL, "max_position_embeddings": 64},
    "deberta": {**_SMALL, "initializer_range": 0.2, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "deberta-v2": {
        **_SMALL, "initializer_range": 0.2, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8,
        "position_biased_input": False, "conv_kernel_size": 3, "norm_rel_ebd": "layer_norm", "share_att_key": True,
    },
    "mpnet": {**_SMALL, "initializer_range": 0.2},
    "xlnet": {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32, "initializer_range": 0.2},
    "funnel": {"block_sizes": [1, 2, 1], "num_decoder_layers": 1, "d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 32},
    "convbert": {**_SMALL, "embedding_size": 8, "head_ratio": 1, "initializer_range": 0.2},
    "squeezebert": {**_SMALL, **_GROUPS, "embedding_size": 16, "initializer_range": 0.2},
    "fnet": {**_SMALL, "initializer_range": 0.2},
    "rembert": {**_SMALL, "input_embedding_size": 8, "output_embedding_size": 8, "initializer_range": 0.2},
    "longformer": {**_SMALL, "attention_window": 4, "max_position_embeddings": 64, "initializer_range": 0.2},
    "big_bird": {**_SMALL, "initializer_range": 0.2},
}  # fmt: skip
DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.2},
    "llama": {**_SMALL, "num_key_value_heads": 2, "initializer_range": 0.2},
    "qwen2": {**_SMALL, "num_key_value_heads": 2, "initializer_range": 0.2},
}
ENCODER_DECODERS: dict[str, dict[str, Any]] = {
    "bart": {"d_model": 16, **_TWO_STACKS, "init_std": 0.2},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2},
}
ALL = {kind: {"model_type": kind, **config} for kind, config in {**ENCODERS, **DECODERS, **ENCODER_DECODERS}.items()}
WITHOUT_A_STACK = ("albert", "funnel", *ENCODER_DECODERS)
"""Their layers cannot be chosen."""
FEW = ("bert", "deberta-v2", "mpnet", "xlnet", "gpt2", "t5")
"""One of each kind: relative and absolute positions, padding left and right, without SDPA, a decoder, two stacks."""


def few_at_first(kind: str, *more: Any) -> Any:
    """A case of a test that takes seconds a family: the rest of them is run with `-m slow`."""
    return pytest.param(kind, *more, marks=() if kind in FEW else pytest.mark.slow)
