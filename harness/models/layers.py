"""A model's stack of layers: which there are, a choice of them, and the last one computed for the first token alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from harness.errors import ModelError
from harness.models.families import FIRST_TOKEN_CLASSIFIERS, layers_refusal

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_STACKS = ("encoder.layer", "transformer.layer", "encoder.layers", "layer", "layers", "h", "decoder.layers")
"""Where families keep their layers, below the base model: BERT and most encoders, DistilBERT, SqueezeBERT, XLNet, Llama and its
kin, GPT-2 and its kin, OPT."""
_ABOVE = ("pooler.", "norm.", "final_norm.", "ln_f.", "LayerNorm.", "encoder.ln.", "decoder.final_layer_norm.")
_LISTS_BY_LAYER = ("layer_types", "mlp_layer_types", "attention_window", "attention_layers")
"""Fields of configurations that hold one value for each layer."""


def encoder_layers(model: nn.Module) -> nn.ModuleList:
    """The model's layers, first to last. Raises ModelError for a model whose layers are no single stack."""
    base = getattr(model, "base_model", model)
    if not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        for path in _STACKS:
            found: Any = base
            for name in path.split("."):
                found = getattr(found, name, None)
            if isinstance(found, nn.ModuleList):
                return found
    raise ModelError(
        f"a model of type {type(model).__name__} has no single list of layers to choose from: layers cannot be chosen in "
        "encoder-decoders, in models that pool between blocks (Funnel), nor in those that use one layer several times (ALBERT)."
    )


def above_layers(base: nn.Module) -> list[nn.Parameter]:
    """Parameters of a base model that come after its layers: of a pooler, and of a last norm."""
    return [p for name, p in base.named_parameters() if name.startswith(_ABOVE)]


def number_of_layers(model: nn.Module) -> int:
    """Of hidden states that `run_model` gives with `layers`: of an encoder-decoder, the decoder's."""
    config: Any = getattr(model, "module", model).config
    if config.is_encoder_decoder:
        return int(getattr(config, "decoder_layers", None) or config.num_decoder_layers)
    return int(config.num_hidden_layers)


def keep_layers(model: PreTrainedModel, wanted: list[int], shown: str) -> None:
    """Cut the model to the layers `wanted`, counted from 0, in that order. Raises ModelError, which calls it `shown`."""
    layers = encoder_layers(model)
    whole = len(layers)
    if reason := layers_refusal(whole, wanted):
        raise ModelError(f"{shown} {reason}")
    if model.config.model_type == "modernbert" and wanted[0] != 0:
        raise ModelError(f"{shown}: ModernBERT's first layer alone has no norm, so `layers: {wanted}` must start with 0.")
    kept = [layers[index] for index in wanted]
    del layers[:]
    layers.extend(kept)
    model.config.num_hidden_layers = len(kept)
    for name in _LISTS_BY_LAYER:
        if isinstance(values := getattr(model.config, name, None), list) and len(values) == whole:
            setattr(model.config, name, [values[index] for index in wanted])
    for index, layer in enumerate(kept):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index  # type: ignore[assignment]


def compute_first_token_only(model: PreTrainedModel) -> None:
    """Above its attention, the last layer computes the first token alone: the only one that classifiers and features read.

    The same numbers for less: three quarters of the last layer. Models of other types stay as they are.
    """
    if model.config.model_type not in FIRST_TOKEN_CLASSIFIERS:
        return
    last: Any = encoder_layers(model)[-1]
    after_attention = last.sa_layer_norm if model.config.model_type == "distilbert" else last.attention.output
    after_attention.register_forward_pre_hook(_first_token)


def _first_token(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(hidden[:, :1] for hidden in given)


def moved_names(model: nn.Module, layers: int | None) -> set[str]:
    """Names of the parameters that a look-ahead over the last `layers` encoder layers moves: theirs and what is above them; all
    without `layers`.
    """
    names = [name for name, _ in model.named_parameters()]
    if layers is None:
        return set(names)
    encoder = encoder_layers(model)
    if not 1 <= layers <= len(encoder):
        raise ValueError(f"the look-ahead shall move the last {layers} layers of a model that has {len(encoder)}")
    base: Any = model.base_model
    below = {id(p) for p in base.parameters()} - {id(p) for p in above_layers(base)}
    below -= {id(p) for layer in encoder[len(encoder) - layers :] for p in layer.parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) not in below}
