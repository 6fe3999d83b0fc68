"""Which vector of a row stands for it: the one that the model's own classifier reads, or the mean over its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from harness.errors import ModelError
from harness.models.families import LAST_TOKEN_CLASSIFIERS, PADDED_LEFT

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MEAN = "_reads_the_mean"


def is_causal(model: nn.Module) -> bool:
    """Whether the classifier reads the last token that is no padding. `transformers` calls its linear layer `score` then."""
    config: Any = model.config
    return (hasattr(model, "score") or config.model_type in LAST_TOKEN_CLASSIFIERS) and not config.is_encoder_decoder


def pooled(model: nn.Module, inputs: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
    """[batch, hidden] of the hidden states [batch, length, hidden] after a layer.

    The first token's, where the classifier reads that; the last position's of models that are padded left; the last token's of
    causal models, whose first token sees nothing but itself; an encoder-decoder's last end token's.
    """
    config: Any = model.config
    if getattr(model, _MEAN, False) or getattr(config, "classifier_pooling", None) == "mean":
        return mean_over_tokens(hidden, inputs["attention_mask"])
    if config.model_type in PADDED_LEFT:
        return hidden[:, -1]
    if config.is_encoder_decoder:
        read = inputs["input_ids"] == config.eos_token_id
    elif is_causal(model):
        read = inputs["input_ids"] != config.pad_token_id  # as the classifiers of `transformers` find it
    else:
        return hidden[:, 0]
    last = (read * torch.arange(read.shape[1], device=read.device)).argmax(-1)
    return hidden[torch.arange(len(last), device=last.device), last]


def mean_over_tokens(hidden: Tensor, mask: Tensor) -> Tensor:
    """[batch, hidden]: the mean of [batch, length, hidden] over the tokens that `mask` [batch, length] marks with 1."""
    weights = mask.unsqueeze(-1).to(torch.promote_types(hidden.dtype, torch.float32))
    return (hidden * weights).sum(1) / weights.sum(1).clamp_min(1.0)


def read_the_mean(model: PreTrainedModel) -> None:
    """From now on the classifier, and the pooler where there is one, read the mean over a row's tokens.

    Raises ModelError for an encoder-decoder, whose classifier reads a token of the decoder, and for Funnel, whose last layer
    has one state for several tokens.
    """
    if model.config.is_encoder_decoder or model.config.model_type == "funnel":
        raise ModelError(f"`pooling: mean` is not there for a model of type {type(model).__name__}; leave it at `own`.")
    masks: list[Tensor] = []

    def note_mask(_: nn.Module, __: tuple[Any, ...], given: dict[str, Any]) -> None:
        masks[:] = [given["attention_mask"]]

    def everywhere(hidden: Tensor) -> Tensor:
        return mean_over_tokens(hidden, masks[0]).to(hidden.dtype).unsqueeze(1).expand(-1, hidden.shape[1], -1)

    def replace(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        output["last_hidden_state"] = everywhere(output["last_hidden_state"])
        return output

    base: Any = model.base_model
    model.register_forward_pre_hook(note_mask, with_kwargs=True)
    has_pooler = isinstance(getattr(base, "pooler", None), nn.Module)
    (base.encoder if has_pooler else base).register_forward_hook(replace)
    setattr(model, _MEAN, True)
