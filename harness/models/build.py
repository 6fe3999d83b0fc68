"""Build or load a sequence classifier, cut it to chosen layers, and run it.

Weights come from safetensors files alone and no model brings code of its own (`harness.models.sources`). What a model
lacks, such as a classification head, starts from random weights that depend on the given seed and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from harness.errors import ModelError
from harness.models.quiet import quiet_transformers
from harness.models.sources import check_weights, model_digest, model_directory, resolve_model_path
from harness.models.tokenizing import PAD_ID, load_tokenizer, tokenizer_digest
from harness.study.schema import ModelSpec

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PretrainedConfig, PreTrainedModel

    from harness.data.batch import Batch

__all__ = [
    "Outputs",
    "build_model",
    "count_parameters",
    "declared_hidden_size",
    "encoder_layers",
    "hidden_size",
    "load_tokenizer",
    "model_digest",
    "resolve_model_path",
    "run_batch",
    "run_model",
    "tokenizer_digest",
]

FIRST_TOKEN_CLASSIFIERS = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert")
"""Model types whose sequence classifiers, as `transformers` has them, read the last layer's first token and nothing else."""


class Outputs(NamedTuple):
    logits: Tensor
    """[batch, classes] float32 (float64 for a model in float64)."""
    features: Tensor | None
    """[batch, hidden], likewise: the last hidden state of the first token; None unless asked for."""
    layers: Tensor | None = None
    """[layers, batch, hidden], likewise: the first token's hidden state after each layer; None unless asked for."""
    parts: Tensor | None = None
    """[parts, batch, classes], likewise: logits on each part of the inputs; None where the batch has none."""


def build_model(
    spec: ModelSpec, classes: int, seed: int, vocabulary: int, attention: Literal["sdpa", "eager"] = "sdpa"
) -> PreTrainedModel:
    """A sequence classifier in float32, on the CPU, in training mode.

    `seed` alone determines the weights that are not loaded; torch's global generator is left as it was. `vocabulary` is the
    number of tokens that the tokenizer knows. A checkpoint's own head is kept where it has `classes` outputs.
    Raises ModelError.
    """
    with quiet_transformers(), _seeded(seed):
        if spec.model is not None:
            model = _load(spec.model, model_directory(spec.model, spec.revision), spec, classes, attention)
        else:
            model = _from_config(spec, classes, vocabulary, attention)
    embedded = model.get_input_embeddings().num_embeddings
    if embedded < vocabulary:
        raise ModelError(
            f"{_shown(spec)} knows {embedded} tokens, but its tokenizer has {vocabulary}; "
            "give the model its own tokenizer, or set `vocab_size` in its config."
        )
    if spec.layers is not None:
        _keep_layers(model, spec.layers, _shown(spec))
    compute_first_token_only(model)
    return model.train()


def run_model(model: nn.Module, inputs: Mapping[str, Tensor], features: bool = False, layers: bool = False) -> Outputs:
    """Logits, with `features` the pooled feature, and with `layers` every layer's, of one batch.

    `model` may be wrapped for several ranks.     Token types are left out where the model has fewer than two of them.
    """
    config = getattr(model, "module", model).config
    given = dict(inputs)
    if getattr(config, "type_vocab_size", 0) < 2:
        given.pop("token_type_ids", None)
    found = model(**given, output_hidden_states=True) if features or layers else model(**given)
    return Outputs(
        _full_precision(found.logits),
        _full_precision(found.hidden_states[-1][:, 0]) if features else None,
        torch.stack([_full_precision(state[:, 0]) for state in found.hidden_states[1:]]) if layers else None,
    )


def run_batch(model: nn.Module, batch: Batch, features: bool = False, layers: bool = False) -> Outputs:
    """`run_model` on a batch and the parts of its inputs: one pass over all of them, because DDP takes one pass a step."""
    if not batch.parts:
        return run_model(model, batch.inputs, features, layers)
    rows = len(batch.ids)
    joined = {name: torch.cat([tensor, *(part[name] for part in batch.parts)]) for name, tensor in batch.inputs.items()}
    found = run_model(model, joined, features, layers)
    return Outputs(
        found.logits[:rows],
        None if found.features is None else found.features[:rows],
        None if found.layers is None else found.layers[:, :rows],
        found.logits[rows:].reshape(len(batch.parts), rows, -1),
    )


def count_parameters(model: nn.Module) -> int:
    """All parameters, trainable or not."""
    return sum(parameter.numel() for parameter in model.parameters())


def hidden_size(model: nn.Module) -> int:
    """Width of the pooled feature."""
    config: Any = getattr(model, "module", model).config
    return int(config.hidden_size)


def declared_hidden_size(spec: ModelSpec) -> int:
    """`hidden_size` of the model that would be built, from its configuration alone. Raises ModelError."""
    from transformers import AutoConfig

    if spec.model is None:
        return int(_config(spec, 2, {}).hidden_size)
    try:
        config = AutoConfig.from_pretrained(model_directory(spec.model, spec.revision), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"model {spec.model!r}: its configuration cannot be read: {str(error)[:300]}") from error
    return int(config.hidden_size)


def encoder_layers(model: nn.Module) -> nn.ModuleList:
    """The encoder's layers of a BERT-, RoBERTa- or DistilBERT-type model, first to last. Raises ModelError for any other."""
    base = getattr(model, "base_model", model)
    for name in ("encoder", "transformer"):
        layers = getattr(getattr(base, name, None), "layer", None)
        if isinstance(layers, nn.ModuleList):
            return layers
    raise ModelError(
        f"a model of type {type(model).__name__} has no list of encoder layers to choose from; "
        "layers can be chosen in BERT-, RoBERTa- and DistilBERT-type models."
    )


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


def _load(name: str, directory: Path, spec: ModelSpec, classes: int, attention: str) -> PreTrainedModel:
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForSequenceClassification

    check_weights(directory, name)
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
        config.num_labels = classes
        _set_dropout(config, spec.dropout)
        model, found = AutoModelForSequenceClassification.from_pretrained(
            directory,
            config=config,
            dtype=torch.float32,  # or else a checkpoint in half precision stays in it
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # a head for other classes is made anew; anything else is refused below
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(
            f"model {name!r} cannot be loaded as a sequence classifier: {str(error).strip().splitlines()[0]}"
        ) from error
    mismatched = {entry[0] for entry in found["mismatched_keys"]}
    if lacking := sorted(key for key in found["missing_keys"] | mismatched if not _is_head(model, key)):
        raise ModelError(
            f"model {name!r}: its checkpoint lacks weights of the encoder, or has them in another size: "
            f"{', '.join(lacking[:3])}{' and more' if len(lacking) > 3 else ''}. "
            "Is it complete, and is its config.json the right one?"
        )
    return model


def _from_config(spec: ModelSpec, classes: int, vocabulary: int, attention: str) -> PreTrainedModel:
    from transformers import AutoModelForSequenceClassification

    config = _config(spec, classes, {"vocab_size": vocabulary})
    try:
        _set_dropout(config, spec.dropout)
        return AutoModelForSequenceClassification.from_config(config, attn_implementation=attention, dtype=torch.float32)
    except (ValueError, TypeError, KeyError, RuntimeError, ImportError) as error:
        raise _no_classifier(spec, error) from error


def _config(spec: ModelSpec, classes: int, defaults: dict[str, Any]) -> PretrainedConfig:
    from transformers import AutoConfig

    assert spec.config is not None
    values: dict[str, Any] = {**defaults, **spec.config}
    kind = values.pop("model_type")
    if spec.tokenizer in (None, "words"):
        values.setdefault("pad_token_id", PAD_ID)
    try:
        return AutoConfig.for_model(kind, num_labels=classes, **values)
    except (ValueError, TypeError, KeyError, RuntimeError, ImportError) as error:
        raise _no_classifier(spec, error) from error


def _no_classifier(spec: ModelSpec, error: Exception) -> ModelError:
    return ModelError(f"no sequence classifier can be made from the config {spec.config}: {str(error)[:300]}")


def _keep_layers(model: PreTrainedModel, wanted: list[int], shown: str) -> None:
    layers = encoder_layers(model)
    if not wanted or len(set(wanted)) != len(wanted) or not all(0 <= index < len(layers) for index in wanted):
        raise ModelError(
            f"{shown} has the layers 0 to {len(layers) - 1}; `layers: {wanted}` must choose some of them, each once."
        )
    kept = [layers[index] for index in wanted]
    del layers[:]
    layers.extend(kept)
    model.config.num_hidden_layers = len(kept)
    for index, layer in enumerate(kept):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index  # type: ignore[assignment]


def _set_dropout(config: PretrainedConfig, dropout: float | None) -> None:
    """Every dropout probability of the configuration; None among them stands for another one of them."""
    if dropout is None:
        return
    for name, value in config.to_dict().items():
        if "dropout" in name and isinstance(value, int | float) and not isinstance(value, bool):
            setattr(config, name, dropout)


def _is_head(model: PreTrainedModel, key: str) -> bool:
    """Is this parameter outside of the encoder, or in its pooler? Both may be learnt in fine-tuning."""
    return not key.startswith(f"{model.base_model_prefix}.") or ".pooler." in key


def _full_precision(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _shown(spec: ModelSpec) -> str:
    return f"model {spec.model!r}" if spec.model is not None else f"a {spec.config['model_type'] if spec.config else ''} model"


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Models are made on the CPU: its generator alone counts, and `torch.manual_seed` would reset the GPUs' too."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
