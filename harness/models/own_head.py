"""A checkpoint's own classification head: which of its outputs is which class of a task.

`transformers` keeps the names of the outputs in config.json (`id2label`). Many checkpoints order them otherwise than GLUE does
(MNLI's contradiction is 0 in some, 2 in others), or say LABEL_0 and so on, which is no name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from harness.digest import digest
from harness.errors import ModelError
from harness.models.build import build_model, model_digest
from harness.models.sources import model_directory
from harness.study.class_names import match_classes
from harness.study.schema import ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def build_classifier(
    spec: ModelSpec,
    classes: Sequence[str],
    seed: int,
    vocabulary: int,
    labels: Sequence[str] | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> PreTrainedModel:
    """`build_model` for a task, its outputs in the order of the task's `classes`.

    A checkpoint's own head is put into that order where its outputs have the classes' names, or where `labels` names them.
    """
    model = build_model(spec, len(classes), seed, vocabulary, tokenizer=tokenizer)
    order = _matching_order(spec, classes) if labels is None else match_classes(classes, labels)
    if order is not None:
        _reorder(model, order)
        model.config.id2label = dict(enumerate(classes))
        model.config.label2id = {name: index for index, name in enumerate(classes)}
    return model


def classifier_digest(spec: ModelSpec, classes: Sequence[str]) -> str:
    """`model_digest`, and the order that `build_classifier` gives the model's own head, where that is not its own."""
    source = model_digest(spec)
    order = _matching_order(spec, classes)
    return source if order is None or order == sorted(order) else digest([source, order])


def head_note(spec: ModelSpec, classes: Sequence[str], shown: str) -> str | None:
    """What a user should know of the head that a model starts with: it was learnt for classes of other names."""
    names = None if spec.model is None else _names(model_directory(spec.model, spec.revision))
    if names is None or len(names) != len(classes) or _matching_order(spec, classes) is not None or not has_head(spec):
        return None
    return (
        f"{shown} ({spec.model}) has a classification head of its own for the classes {', '.join(names)}, which are not the "
        f"task's ({', '.join(classes)}): training starts from it as it is"
    )


def fine_tuned_labels(spec: ModelSpec, classes: Sequence[str], labels: Sequence[str] | None) -> list[str]:
    """The classes of a fine-tuned model's outputs, in their order; `labels` are the study's own names of them.

    From the checkpoint's files, without its weights. Raises ModelError where they are not the task's, have no names, or the
    checkpoint has no head.
    """
    assert spec.model is not None
    directory = model_directory(spec.model, spec.revision)
    if not has_head(spec):
        raise ModelError(
            f"model {spec.model!r} has no classification head in its weights, so it is not fine-tuned; to fine-tune it here, "
            "give it as `model:` in the place of `fine_tuned:`"
        )
    if (problem := _configuration(directory).get("problem_type")) not in (None, "single_label_classification"):
        raise ModelError(
            f"model {spec.model!r} is fine-tuned for {problem}: its outputs are no logits of one class among others. A teacher "
            "here says which one of the task's classes a row has"
        )
    stored = _stored_names(directory)
    if len(stored) != len(classes):
        raise ModelError(
            f"model {spec.model!r} has {len(stored)} outputs ({', '.join(stored[:5])}), and the task has {len(classes)} "
            f"classes ({', '.join(classes)}): was it fine-tuned on another task?"
        )
    names = _names(directory)
    if names is None and labels is None:
        raise ModelError(
            f"model {spec.model!r} calls its outputs {', '.join(stored)}, which does not say which class is which; name them "
            f"in their order: `labels: {{TASK: [{', '.join(classes)}]}}`, if that is the order it was fine-tuned with"
        )
    own = None if names is None else _match(classes, names)
    if labels is None:
        if own is None:
            assert names is not None
            raise ModelError(
                f"model {spec.model!r}: {_fault(classes, names)}. Say which is which with `labels:`, in their order"
            )
        return stored
    if own is not None and own != match_classes(classes, labels):
        raise ModelError(
            f"model {spec.model!r}: `labels` says that its outputs are {', '.join(labels)}, and its own config.json says "
            f"{', '.join(stored)}; leave `labels` out"
        )
    return list(labels)


def has_head(spec: ModelSpec) -> bool:
    """Whether the checkpoint holds all weights of its classifier that lie outside of the encoder. Raises ModelError."""
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForSequenceClassification

    assert spec.model is not None
    directory = model_directory(spec.model, spec.revision)
    stored: set[str] = set()
    try:
        for file in directory.glob("*.safetensors"):
            with safe_open(file, "pt") as weights:
                stored |= set(weights.keys())
        with torch.device("meta"):  # names alone, no weights
            model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(directory))
    except Exception as error:  # a damaged file, an unknown type: transformers and safetensors raise a dozen kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"model {spec.model!r} cannot be read as a sequence classifier: {reason[:300]}") from error
    head = {name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")}
    return head <= stored


def _matching_order(spec: ModelSpec, classes: Sequence[str]) -> list[int] | None:
    """Of the outputs of the checkpoint's own head; None where it has none, or none with these classes' names."""
    if spec.model is None or (names := _names(model_directory(spec.model, spec.revision))) is None:
        return None
    order = _match(classes, names)
    return order if order is not None and has_head(spec) else None


def _match(classes: Sequence[str], names: Sequence[str]) -> list[int] | None:
    try:
        return match_classes(classes, names)
    except ValueError:
        return None


def _fault(classes: Sequence[str], names: Sequence[str]) -> str:
    try:
        match_classes(classes, names)
    except ValueError as error:
        return f"of its outputs, {error}"
    raise AssertionError("these names match")


def _names(directory: Path) -> list[str] | None:
    """What the outputs are called, in their order; None where that is LABEL_0 and so on."""
    stored = _stored_names(directory)
    return None if all(re.fullmatch(r"LABEL_\d+", name) for name in stored) else stored


def _stored_names(directory: Path) -> list[str]:
    """As config.json has them; without any, transformers' own default."""
    try:
        by_id = {int(key): str(name) for key, name in (_configuration(directory).get("id2label") or {}).items()}
    except (ValueError, AttributeError):
        by_id = {}
    return [by_id[key] for key in sorted(by_id)] or ["LABEL_0", "LABEL_1"]


def _configuration(directory: Path) -> dict[str, Any]:
    """What config.json says. A file that is no JSON is `check_weights`' to refuse."""
    try:
        content = json.loads((directory / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _reorder(model: PreTrainedModel, order: list[int]) -> None:
    """Permute the rows of the last linear map outside of the encoder: output k is what output `order[k]` was."""
    if order == sorted(order):
        return
    heads = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == len(order)
        and not name.startswith(f"{model.base_model_prefix}.")
    ]
    if not heads:
        raise ModelError(
            f"a model of type {type(model).__name__} has no linear classification head whose outputs could be ordered"
        )
    with torch.no_grad():
        for tensor in (heads[-1].weight, heads[-1].bias):
            if tensor is not None:
                tensor.copy_(tensor[order].clone())
