"""Encoder layers of BERT and RoBERTa with less work on a CPU, and the same numbers up to rounding.

One product for queries, keys and values; in the last layer, queries of the token alone that the classifier reads; casts to bf16
by hand, where autocast would look at every operation; dropout of attention as in `harness.models.dropout`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import PreTrainedModel
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.roberta.modeling_roberta import RobertaLayer

from harness.models.dropout import dropped, stacked_masks
from harness.models.families import LEAN
from harness.models.layers import encoder_layers


class _Lean(nn.Module):
    """A layer's `forward`, for tensors on the CPU and for stacked students; elsewhere the layer's own, whose fused attention is
    the faster one.
    """

    attention: Any
    intermediate: Any
    output: Any
    first_token_alone = False

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, *rest: Any, **options: Any) -> Tensor:
        """[batch, tokens, hidden] from the same; [batch, 1, hidden] where the layer is the last and one token is read."""
        # whoever chooses another attention later gets it
        kind = hidden_states.device.type
        if (kind != "cpu" and stacked_masks() is None) or self.attention.self.config._attn_implementation != "sdpa":
            own: Tensor = super().forward(hidden_states, attention_mask, *rest, **options)
            return own
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        with torch.autocast(kind, enabled=False):
            return self._computed(hidden_states, attention_mask, low)

    def _computed(self, hidden: Tensor, mask: Tensor | None, low: torch.dtype | None) -> Tensor:
        attended = self._attended(hidden, mask, low)
        if self.first_token_alone:
            hidden = hidden[:, :1]
        for block, given in ((self.attention.output, attended), (self.output, None)):
            if given is None:
                given = self.intermediate.intermediate_act_fn(_linear(hidden, self.intermediate.dense, low))
            added = block.dropout(_linear(given, block.dense, low))
            hidden = block.LayerNorm(added + hidden)
        return hidden

    def _attended(self, hidden: Tensor, mask: Tensor | None, low: torch.dtype | None) -> Tensor:
        own = self.attention.self
        first = self.first_token_alone
        projections = [own.key, own.value] if first else [own.query, own.key, own.value]
        batch, tokens, _ = hidden.shape
        heads, width = own.num_attention_heads, own.attention_head_size
        weight = torch.cat([layer.weight for layer in projections])
        bias = torch.cat([layer.bias for layer in projections])
        joined = F.linear(_cast(hidden, low), _cast(weight, low), _cast(bias, low))
        split = joined.reshape(batch, tokens, len(projections), heads, width).permute(2, 0, 3, 1, 4).unbind(0)
        query = _linear(hidden[:, :1], own.query, low).reshape(batch, 1, heads, width).transpose(1, 2) if first else split[0]
        key, value = split[-2:]
        if mask is not None:
            mask = mask[:, :, :1]  # padding is hidden from every token alike
        rate = own.dropout.p if own.training else 0.0
        if rate > 0 or stacked_masks() is not None:  # fused attention cannot be stacked
            found = _attention(query, key, value, mask, own.scaling, rate)
        else:
            found = F.scaled_dot_product_attention(query, key, value, mask, scale=own.scaling)
        return found.transpose(1, 2).flatten(2)


def _attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, dropout: float) -> Tensor:
    """In float32 (or more): a CPU's batched products of small matrices are no faster in bf16."""
    if query.dtype == torch.bfloat16:
        query, key, value = query.float(), key.float(), value.float()
    scores = torch.matmul(query * scale, key.transpose(-2, -1))
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return torch.matmul(dropped(scores.softmax(-1), dropout), value)


def _linear(given: Tensor, layer: nn.Linear, low: torch.dtype | None) -> Tensor:
    return F.linear(_cast(given, low), _cast(layer.weight, low), _cast(layer.bias, low))


def _cast(tensor: Tensor, low: torch.dtype | None) -> Tensor:
    return tensor if low is None else tensor.to(low)


class LeanBertLayer(_Lean, BertLayer):  # type: ignore[misc]  # transformers is not read
    pass


class LeanRobertaLayer(_Lean, RobertaLayer):  # type: ignore[misc]
    pass


LEAN_LAYERS = {BertLayer: LeanBertLayer, RobertaLayer: LeanRobertaLayer}


def make_lean(model: PreTrainedModel, first_token_alone: bool) -> None:
    """Let the layers of a BERT or RoBERTa encoder be lean ones; other models stay as they are.

    `first_token_alone`: of the last layer's output nothing else is read.
    """
    config = model.config
    if config.model_type not in LEAN or config._attn_implementation != "sdpa":
        return
    if config.is_decoder or config.chunk_size_feed_forward:
        return
    layers = encoder_layers(model)
    for layer in layers:
        layer.__class__ = LEAN_LAYERS[type(layer)]
    layers[-1].first_token_alone = first_token_alone  # type: ignore[assignment]
