"""What model families differ in, by `model_type`. No torch: plans use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FIRST_TOKEN_CLASSIFIERS = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert")
"""Model types whose sequence classifiers, as `transformers` has them, read the last layer's first token and nothing else."""

LEAN = ("bert", "roberta")
"""Their encoders have lean layers (`harness.models.lean_layers`), which can be stacked."""

LAST_TOKEN_CLASSIFIERS = ("ctrl", "modernbert-decoder")
"""Causal families whose classifier does not say so by its name."""

PADDED_LEFT = ("xlnet",)
"""Their classifiers read the last position, so padding has to come first."""

ROWS_OF_EQUAL_LENGTH = ("fnet", "convbert", "nystromformer")
"""Their tokens see padding: FNet has no attention mask, and ConvBERT's convolutions and Nystromformer's landmarks know of none.
Rows of each length are passed alone, without padding.
"""

_NUMBERED_AFTER_PADDING = (
    "roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "data2vec-text", "xmod", "ibert",
    "longformer", "luke", "lilt", "layoutlmv3", "markuplm", "esm", "mpnet",
)  # fmt: skip
"""Positions count from the number of the padding token, plus one."""

_RELATIVE = ("t5", "mt5", "umt5", "t5gemma", "xlnet", "funnel", "bloom", "mpt")
"""Families without a table of positions, whatever their configuration says."""


def usable_positions(config: Mapping[str, Any]) -> int | None:
    """The longest sequence, in tokens, that a model with this configuration takes; None where nothing bounds it or says so."""
    kind = config.get("model_type")
    limit = config.get("max_position_embeddings", config.get("n_positions"))
    if not isinstance(limit, int) or limit < 1 or kind in _RELATIVE or config.get("position_biased_input") is False:
        return None
    if kind not in _NUMBERED_AFTER_PADDING:
        return limit
    padding = 1 if kind == "mpnet" else config.get("pad_token_id")  # MPNet's is fixed
    return limit - (1 if padding is None else int(padding)) - 1


def known_layers(config: Mapping[str, Any]) -> int | None:
    """How many layers a model with this configuration has; None where it does not say."""
    names = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")
    return next((config[name] for name in names if isinstance(config.get(name), int)), None)


def stacked_refusal(config: Mapping[str, Any], pooling: str) -> str | None:
    """Why students with this configuration cannot be stacked, as far as it says; None where nothing speaks against it."""
    kind = config.get("model_type", LEAN[0])
    if kind not in LEAN:
        return f"a student of type {kind} cannot be stacked, only {' and '.join(LEAN)}"
    return "a student with `pooling: mean` cannot be stacked" if pooling == "mean" else None


def layers_refusal(there: int, wanted: Sequence[int]) -> str | None:
    """Why a model of so many layers does not have those wanted; None where it has."""
    if wanted and len(set(wanted)) == len(wanted) and all(0 <= index < there for index in wanted):
        return None
    return f"has the layers 0 to {there - 1}; `layers: {list(wanted)}` must choose some of them, each once"


def positions_refusal(config: Mapping[str, Any], max_length: int) -> str | None:
    """Why sequences of `max_length` tokens are too long for a model with this configuration; None where they are not."""
    usable = usable_positions(config)
    if usable is None or usable >= max_length:
        return None
    declared = config.get("max_position_embeddings", config.get("n_positions"))
    less = f", of which {usable} can be used (they count from the padding token's number)" if usable != declared else ""
    return f"the model has {declared} positions{less}, but data.max_length is {max_length}"
