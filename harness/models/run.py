"""One pass of a model on a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.models.families import PADDED_LEFT, ROWS_OF_EQUAL_LENGTH
from harness.models.pooling import pooled

if TYPE_CHECKING:
    from harness.data.batch import Batch


class Outputs(NamedTuple):
    logits: Tensor
    """[batch, classes] float32 (float64 for a model in float64)."""
    features: Tensor | None
    """[batch, hidden], likewise: the last hidden state that the classifier reads (`harness.models.pooling`); None unless asked
    for."""
    layers: Tensor | None = None
    """[layers, batch, hidden], likewise: the same token's hidden state after each layer; None unless asked for."""
    parts: Tensor | None = None
    """[parts, batch, classes], likewise: logits on each part of the inputs; None where the batch has none."""


RunModel = Callable[[nn.Module, Mapping[str, Tensor], bool, bool], Outputs]
"""As `run_model`."""


def run_model(model: nn.Module, inputs: Mapping[str, Tensor], features: bool = False, layers: bool = False) -> Outputs:
    """Logits, with `features` the pooled feature, and with `layers` every layer's, of one batch that is padded right.

    `model` may be wrapped for several ranks. Token types are left out where the model has fewer than two of them. A row's
    outputs do not depend on how far it is padded.
    """
    config: Any = getattr(model, "module", model).config
    given = dict(inputs)
    if getattr(config, "type_vocab_size", 0) < 2 and config.model_type != "xlnet":
        given.pop("token_type_ids", None)
    if config.model_type in PADDED_LEFT:
        given = _padded_left(given)
    if config.model_type == "funnel":
        given = _padded_further(given, 2 ** len(config.block_sizes))
    with attention_for_the_way_back(given["attention_mask"].device):
        if config.model_type in ROWS_OF_EQUAL_LENGTH:
            return _by_length(model, given, features, layers)
        return _pass(model, given, features, layers)


@contextmanager
def attention_for_the_way_back(device: torch.device) -> Iterator[None]:
    """Attention by its parts where a CPU is to differentiate it in half precision: the fused kernel's way back is slow there,
    18 ms a layer for 32 rows of 16 tokens. Forward and backward, a three-layer MiniLM takes 133 ms with it, and 82 ms without.

    The choice is the whole process's, so it is made around each pass: one that micro-batches repeat on the way back makes it
    again, and no other training of the process sees it.
    """
    if device.type == "cpu" and torch.is_autocast_enabled("cpu") and torch.is_grad_enabled():
        with sdpa_kernel(SDPBackend.MATH):
            yield
    else:
        yield


def run_batch(
    model: nn.Module, batch: Batch, features: bool = False, layers: bool = False, run: RunModel | None = None
) -> Outputs:
    """`run_model`, or another `run`, on a batch and the parts of its inputs: one pass over all of them, because DDP takes one
    pass a step.
    """
    run = run or run_model
    if not batch.parts:
        return run(model, batch.inputs, features, layers)
    rows = len(batch.ids)
    joined = {name: torch.cat([tensor, *(part[name] for part in batch.parts)]) for name, tensor in batch.inputs.items()}
    found = run(model, joined, features, layers)
    return Outputs(
        found.logits[:rows],
        None if found.features is None else found.features[:rows],
        None if found.layers is None else found.layers[:, :rows],
        found.logits[rows:].reshape(len(batch.parts), rows, -1),
    )


def in_one_pass(model: nn.Module) -> bool:
    """Whether a batch is one pass of the model, and not one for each length of its rows."""
    config: Any = model.config
    return config.model_type not in ROWS_OF_EQUAL_LENGTH


def _pass(model: nn.Module, given: Mapping[str, Tensor], features: bool, layers: bool) -> Outputs:
    bare: Any = getattr(model, "module", model)
    shown = _masked_on_the_device(bare.config, given)
    if not features and not layers:
        return Outputs(_full_precision(model(**shown).logits), None)
    found = model(**shown, output_hidden_states=True)
    states = found.decoder_hidden_states if bare.config.is_encoder_decoder else found.hidden_states
    return Outputs(
        _full_precision(found.logits),
        _full_precision(pooled(bare, given, states[-1])) if features else None,
        torch.stack([_full_precision(pooled(bare, given, state)) for state in states[1:]]) if layers else None,
    )


def _masked_on_the_device(config: Any, given: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """With the mask of attention that transformers would make, after it has waited for a GPU to say if there is padding."""
    mask = given["attention_mask"]
    if mask.device.type != "cuda" or config.model_type not in ("bert", "roberta") or config._attn_implementation != "sdpa":
        return given
    return {**given, "attention_mask": mask[:, None, None, :].bool()}


def _by_length(model: nn.Module, given: Mapping[str, Tensor], features: bool, layers: bool) -> Outputs:
    lengths = given["attention_mask"].sum(1)
    rows = [(lengths == length).nonzero().squeeze(1) for length in sorted(set(lengths.tolist()))]
    found = [
        _pass(model, {name: tensor[chosen][:, : int(lengths[chosen[0]])] for name, tensor in given.items()}, features, layers)
        for chosen in rows
    ]
    back = torch.cat(rows).argsort()
    return Outputs(
        torch.cat([one.logits for one in found])[back],
        torch.cat([one.features for one in found if one.features is not None])[back] if features else None,
        torch.cat([one.layers for one in found if one.layers is not None], 1)[:, back] if layers else None,
    )


def _padded_left(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    mask = given["attention_mask"]
    width = mask.shape[1]
    moved = (torch.arange(width, device=mask.device) + mask.sum(1, keepdim=True)) % width
    return {name: tensor.gather(1, moved) for name, tensor in given.items()}


def _padded_further(given: Mapping[str, Tensor], more: int) -> dict[str, Tensor]:
    """Funnel pools pairs of positions, and cuts the last one off: there it has to find padding, and in short rows at all."""
    wider = {name: torch.cat([tensor, tensor[:, :1].expand(-1, more)], 1) for name, tensor in given.items()}
    wider["attention_mask"][:, -more:] = 0
    return wider


def _full_precision(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
