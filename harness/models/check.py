"""Whether a model can be used at all: found before anything is trained, as far as possible before the data are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness.errors import ModelError
from harness.models.build import build_model
from harness.models.families import positions_refusal
from harness.models.layers import encoder_layers
from harness.models.run import Outputs, run_model
from harness.models.sources import check_weights, model_directory
from harness.models.tokenizing import LARGEST_VOCABULARY, load_tokenizer
from harness.study.schema import ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

PROBE_TOKENS = 16
"""Length of the rows that are tried, at most."""
ENOUGH_PADDING = 4


def check_model(
    spec: ModelSpec,
    classes: int,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[Sequence[str]],
    max_length: int,
    moved_layers: int | None = None,
) -> list[str]:
    """Build the model and pass two rows through it; returns what is worth a line in the log.

    texts          each of the task's texts for two rows
    moved_layers   a look-ahead moves so many of its last layers

    Raises ModelError for a model that cannot be built or run, that has too few positions, or whose outputs for a row depend on
    how far the row is padded.
    """
    if tokenizer.pad_token_id is None:
        raise ModelError(f"the tokenizer {tokenizer.name_or_path!r} has no padding token; batches need one")
    model = build_model(spec, classes, 0, len(tokenizer), tokenizer=tokenizer).eval()
    if reason := positions_refusal(model.config.to_dict(), max_length):
        raise ModelError(reason)
    if moved_layers is not None and moved_layers > (there := len(encoder_layers(model))):
        raise ModelError(f"a look-ahead shall move its last {moved_layers} layers, and it has {there}")
    longest = max(max_length - ENOUGH_PADDING, max_length // 2)
    found = tokenizer(*texts, truncation="longest_first", max_length=min(longest, PROBE_TOKENS))
    try:
        with torch.no_grad():
            together = _run(model, found, [0, 1], tokenizer.pad_token_id)
            alone = [_run(model, found, [row], tokenizer.pad_token_id, padded=False) for row in (0, 1)]
    except (RuntimeError, ValueError, IndexError, TypeError, KeyError, AttributeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"a model of type {type(model).__name__} cannot be run on rows of this task: {reason[:300]}"
        ) from error
    logits = torch.cat([one.logits for one in alone])
    if not torch.allclose(together.logits, logits, rtol=0.0, atol=1e-6 + 2e-3 * float(logits.abs().max())):
        raise ModelError(
            f"what a model of type {type(model).__name__} says of a row depends on how far the row is padded, or on chance: "
            f"{logits.tolist()} without padding, {together.logits.tolist()} with it"
        )
    notes = []
    if model.config._attn_implementation == "eager":
        notes.append(f"attention is eager: transformers has no SDPA for {model.config.model_type}")
    assert together.features is not None
    if found["input_ids"][0] != found["input_ids"][1] and torch.equal(*together.features):
        notes.append("pooled features are the same for all rows: strategies and loss terms that look at them see nothing")
    return notes


def check_shape(spec: ModelSpec, classes: int, max_length: int, cache: Path, moved_layers: int | None = None) -> None:
    """Raises ModelError as `model_shape` does, and where a model has too few positions, or not the layers that a look-ahead
    moves.
    """
    model = model_shape(spec, classes, cache)
    if reason := positions_refusal(model.config.to_dict(), max_length):
        raise ModelError(reason)
    if moved_layers is not None and moved_layers > (layers := len(encoder_layers(model))):
        raise ModelError(f"a look-ahead shall move its last {moved_layers} layers, and it has {layers}")


def model_shape(spec: ModelSpec, classes: int, cache: Path) -> PreTrainedModel:
    """The model on torch's meta device, built from its configuration alone; its tokenizer and its weights' files are looked at.

    Raises ModelError where the classifier cannot be built, a file of its weights is missing, its tokenizer has no padding
    token or more tokens than it, or it has not the layers that are chosen.
    """
    config = spec.config or _own_configuration(spec)
    tokenizer: PreTrainedTokenizerFast | None = None
    vocabulary = int(config.get("vocab_size", LARGEST_VOCABULARY))
    if spec.tokenizer != "words" and (spec.tokenizer is not None or spec.model is not None):
        tokenizer = load_tokenizer(spec, (), cache)
        vocabulary = len(tokenizer)
        if tokenizer.pad_token_id is None:
            raise ModelError(f"the tokenizer {tokenizer.name_or_path!r} has no padding token; batches need one")
    shape = spec.model_copy(update={"model": None, "config": config})
    try:
        with torch.device("meta"):
            return build_model(shape, classes, 0, vocabulary, tokenizer=tokenizer)
    except ModelError as error:
        if spec.model is None:
            raise
        why = str(error.__cause__ or error).strip().splitlines()[0]
        raise ModelError(f"model {spec.model!r} cannot be built as a sequence classifier: {why[:300]}") from error


def _own_configuration(spec: ModelSpec) -> dict[str, Any]:
    """Of a pretrained model, without what it says of its classes. Raises ModelError where a file of it cannot be used."""
    from transformers import AutoConfig

    assert spec.model is not None
    directory = model_directory(spec.model, spec.revision)
    check_weights(directory, spec.model)
    try:
        config: dict[str, Any] = AutoConfig.from_pretrained(directory, trust_remote_code=False).to_dict()
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"model {spec.model!r}: its configuration cannot be read: {str(error)[:300]}") from error
    return {name: value for name, value in config.items() if name not in ("id2label", "label2id", "num_labels")}


def _run(model: torch.nn.Module, found: dict[str, list[list[int]]], rows: list[int], pad: int, padded: bool = True) -> Outputs:
    tokens = [found["input_ids"][row] or [pad] for row in rows]
    width = max(map(len, tokens)) + ENOUGH_PADDING * padded
    inputs: dict[str, Tensor] = {
        "input_ids": torch.tensor([row + [pad] * (width - len(row)) for row in tokens]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in tokens]),
    }
    if "token_type_ids" in found:
        kinds = [found["token_type_ids"][row] or [0] for row in rows]
        inputs["token_type_ids"] = torch.tensor([row + [0] * (width - len(row)) for row in kinds])
    return run_model(model, inputs, features=True, layers=True)
