"""Build or load a sequence classifier, and cut it to chosen layers.

Weights come from safetensors files alone and no model brings code of its own (`harness.models.sources`). What a model
lacks, such as a classification head, starts from random weights that depend on the given seed and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from harness.errors import ModelError
from harness.models.dropout import draw_dropout_from_16_bits
from harness.models.layers import compute_first_token_only, encoder_layers, keep_layers, number_of_layers
from harness.models.pooling import is_causal, read_the_mean
from harness.models.run import Outputs, run_batch, run_model
from harness.models.save import quiet_transformers
from harness.models.sources import check_weights, model_digest, model_directory, resolve_model_path
from harness.models.tokenizing import PAD_ID, load_tokenizer, tokenizer_digest
from harness.study.schema import ModelSpec

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

__all__ = [
    "Outputs",
    "build_model",
    "count_parameters",
    "declared_hidden_size",
    "encoder_layers",
    "hidden_size",
    "load_tokenizer",
    "model_digest",
    "number_of_layers",
    "resolve_model_path",
    "run_batch",
    "run_model",
    "tokenizer_digest",
]


def build_model(
    spec: ModelSpec,
    classes: int,
    seed: int,
    vocabulary: int,
    attention: Literal["sdpa", "eager"] = "sdpa",
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> PreTrainedModel:
    """A sequence classifier in float32, on the CPU, in training mode.

    `seed` alone determines the weights that are not loaded; torch's global generator is left as it was. `vocabulary` is the
    number of tokens that the tokenizer knows. A checkpoint's own head is kept where it has `classes` outputs. Attention is
    eager, whatever is asked for, in families that have no other. `tokenizer` tells the padding token to causal models, and the
    end token to encoder-decoders from a config that names none. Raises ModelError.
    """
    from harness.models.lean_layers import make_lean  # it imports transformers' models

    with quiet_transformers(), _seeded(seed):
        if spec.model is not None:
            model = _load(spec.model, model_directory(spec.model, spec.revision), spec, classes, attention)
        else:
            model = _from_config(spec, classes, vocabulary, attention)
    if (embedded := _embedded_tokens(model)) < vocabulary:
        raise ModelError(
            f"{_shown(spec)} knows {embedded} tokens, but its tokenizer has {vocabulary}; "
            "give the model its own tokenizer, or set `vocab_size` in its config."
        )
    if tokenizer is not None:
        _tell_tokens(model, tokenizer, spec.config or {})
    if spec.layers is not None:
        keep_layers(model, spec.layers, _shown(spec))
    if spec.pooling == "mean":
        read_the_mean(model)
    else:
        compute_first_token_only(model)
    make_lean(model, first_token_alone=spec.pooling != "mean")
    draw_dropout_from_16_bits(model)
    return model.train()


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


def _embedded_tokens(model: PreTrainedModel) -> int:
    try:
        return len(model.get_input_embeddings().weight)
    except (NotImplementedError, AttributeError) as error:
        raise ModelError(
            f"a model of type {type(model).__name__} has no embedding of tokens; it reads no tokenized text."
        ) from error


def _tell_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, given: dict[str, Any]) -> None:
    if is_causal(model):
        model.config.pad_token_id = tokenizer.pad_token_id
    end = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    if model.config.is_encoder_decoder and given:
        for name, token in {"eos_token_id": end, "decoder_start_token_id": tokenizer.pad_token_id}.items():
            if name not in given:
                setattr(model.config, name, token)


def _prepare(config: PretrainedConfig, dropout: float | None, attention: str) -> str:
    """Set what the harness sets in any configuration; returns the attention to build it with."""
    from transformers import AutoModelForSequenceClassification

    _set_dropout(config, dropout)
    if hasattr(config, "use_cache"):
        config.use_cache = False  # nothing is generated
    if config.model_type == "big_bird":
        config.attention_type = "original_full"  # the other one gives way to it, for good, at the first short batch
    family = AutoModelForSequenceClassification._model_mapping.get(type(config), None)
    return attention if family is None or getattr(family, "_supports_sdpa", False) else "eager"


def _load(name: str, directory: Path, spec: ModelSpec, classes: int, attention: str) -> PreTrainedModel:
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForSequenceClassification

    check_weights(directory, name)
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
        config.num_labels = classes
        attention = _prepare(config, spec.dropout, attention)
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
        attention = _prepare(config, spec.dropout, attention)
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


def _set_dropout(config: PretrainedConfig, dropout: float | None) -> None:
    """Every dropout probability of the configuration; None among them stands for another one of them."""
    if dropout is None:
        return
    for name, value in config.to_dict().items():
        if ("dropout" in name or name.endswith("pdrop")) and isinstance(value, int | float) and not isinstance(value, bool):
            setattr(config, name, dropout)


def _is_head(model: PreTrainedModel, key: str) -> bool:
    """Is this parameter outside of the encoder, or in its pooler? Both may be learnt in fine-tuning."""
    return not key.startswith(f"{model.base_model_prefix}.") or ".pooler." in key


def _shown(spec: ModelSpec) -> str:
    return f"model {spec.model!r}" if spec.model is not None else f"a {spec.config['model_type'] if spec.config else ''} model"


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Models are made on the CPU: its generator alone counts, and `torch.manual_seed` would reset the GPUs' too."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
