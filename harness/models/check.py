"""Whether a model can be used at all: found before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness.errors import ModelError
from harness.models.build import build_model
from harness.models.families import positions_refusal
from harness.models.layers import encoder_layers
from harness.models.run import Outputs, run_model
from harness.study.schema import ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

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
