"""One pass of several students of one shape, each on a batch of its own: products of stacked weights (`torch.func.vmap`).

Each student's outputs and gradients are those of its own pass up to rounding. On a CPU its dropout masks are the ones that it
would draw alone; on a GPU, whose fused kernels draw masks in an order of their own, they are others of the same distribution.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F  # noqa: N812

from harness.models.dropout import dropping_stacked, scaled_mask
from harness.models.families import LEAN
from harness.models.layers import encoder_layers
from harness.models.lean_layers import LEAN_LAYERS
from harness.models.used_tokens import UsedTokenEmbedding

_ROW_OF = ".row_of"


@dataclass(frozen=True)
class OwnBatch:
    """A student, and what it is to pass."""

    model: Any
    inputs: Mapping[str, Tensor]
    """Each [batch, length]; both may differ from student to student."""
    generator: torch.Generator
    """Of the dropout masks, on the student's device."""


def shape_of(model: nn.Module) -> Hashable:
    """Models of equal shapes can be passed together; None for one that cannot be stacked (`stacking_refusal`)."""
    if stacking_refusal(model):
        return None
    used = _used_weights(model)
    parameters = tuple(
        (name, p.shape[1:] if name in used else p.shape, p.dtype, p.requires_grad) for name, p in model.named_parameters()
    )
    rates = tuple(module.p for module in model.modules() if isinstance(module, nn.Dropout))
    whole = sorted((key, str(value)) for key, value in model.config.to_dict().items())  # type: ignore[union-attr, operator]
    return type(model), parameters, rates, str(next(model.parameters()).device), str(whole)


def stacking_refusal(model: nn.Module) -> str:
    """Why a model cannot be stacked; empty where it can."""
    config: Any = getattr(model, "config", None)
    kind = getattr(config, "model_type", type(model).__name__)
    if kind not in LEAN:
        return f"a model of type {kind} cannot be stacked, only {' and '.join(LEAN)}"
    layers: Any = encoder_layers(model)
    if any(type(layer) not in LEAN_LAYERS.values() for layer in layers):
        return "its layers are not those of `harness.models.lean_layers`"
    if any(
        0 < module.p < 1 and round(module.p * 2**16) in (0, 2**16)
        for module in model.modules()
        if isinstance(module, nn.Dropout)
    ):
        return "its dropout is nearer to 0 or 1 than 16 random bits can tell"
    if not layers[-1].first_token_alone:
        return "`pooling: mean` cannot be stacked"
    return ""


def stacked_logits(batches: Sequence[OwnBatch]) -> list[Tensor]:
    """Each student's [its batch, classes] float32 (float64 for models in float64), with the way back to its own parameters.

    The models' shapes must be equal (`shape_of`). Shorter batches are padded to the size and width of the greatest.
    """
    base = batches[0].model
    sizes = [tuple(one.inputs["input_ids"].shape) for one in batches]
    rows, width = max(size[0] for size in sizes), max(size[1] for size in sizes)
    inputs = {"input_ids": _joined(batches, "input_ids", rows, width, int(base.config.pad_token_id or 0))}
    if base.config.type_vocab_size > 1 and all("token_type_ids" in one.inputs for one in batches):
        inputs["token_type_ids"] = _joined(batches, "token_type_ids", rows, width, 0)
    inputs["attention_mask"] = _joined(batches, "attention_mask", rows, width, 0)[:, :, None, None, :].bool()
    models = [one.model for one in batches]
    held = {**_stacked(models, "named_parameters"), **_stacked(models, "named_buffers")}

    def run(state: dict[str, Tensor], given: dict[str, Tensor]) -> Tensor:
        found: Tensor = functional_call(base, state, kwargs=given).logits
        return found

    with dropping_stacked(_Masks([one.generator for one in batches], sizes, width)):
        logits = vmap(run)(held, inputs)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return [logits[k, : size[0]] for k, size in enumerate(sizes)]


def _joined(batches: Sequence[OwnBatch], name: str, rows: int, width: int, filler: int) -> Tensor:
    """[students, rows, width]."""
    given = [one.inputs[name] for one in batches]
    return torch.stack([F.pad(t, (0, width - t.shape[1], 0, rows - t.shape[0]), value=filler) for t in given])


def _stacked(models: Sequence[nn.Module], kind: str) -> dict[str, Tensor]:
    """Name -> [students, ...]. Of the buffers, those alone in which students of one shape differ."""
    named = [dict(getattr(model, kind)()) for model in models]
    used = _used_weights(models[0])
    found = {}
    for name in named[0]:
        tensors = [one[name] for one in named]
        if name in used:  # tables of students that have seen other tokens differ in length
            most = max(len(tensor) for tensor in tensors)
            tensors = [F.pad(tensor, (0, 0, 0, most - len(tensor))) for tensor in tensors]
        if kind == "named_parameters" or name.endswith(_ROW_OF):
            found[name] = torch.stack(tensors)
    return found


def _used_weights(model: nn.Module) -> set[str]:
    return {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, UsedTokenEmbedding)}


class _Masks:
    """Dropout of all students: each one's mask in the shape that its own batch has, from its own generator."""

    def __init__(self, generators: Sequence[torch.Generator], sizes: Sequence[tuple[int, ...]], width: int) -> None:
        self._generators = generators
        self._sizes = sizes
        self._width = width

    def __call__(self, given: Tensor, rate: float) -> Tensor:
        if rate in (0, 1):
            return given * (1 - rate)
        found: Tensor = _Dropped.apply(given, self, rate)  # type: ignore[no-untyped-call]
        return found

    def joined(self, shape: Sequence[int], rate: float) -> Tensor:
        """[students, rows, ...]: of hidden states [.., rows, tokens, hidden], attention [.., rows, heads, tokens, tokens], or
        pooled vectors [.., rows, hidden]. A dimension of tokens that is 1 belongs to a layer that computes one alone.
        """
        tokens = {4: (2,), 5: (3, 4)}.get(len(shape), ())
        joined = torch.zeros(tuple(shape), device=self._generators[0].device)
        for k, (generator, (rows, width)) in enumerate(zip(self._generators, self._sizes, strict=True)):
            own = [rows, *shape[2:]]
            for dim in tokens:
                if shape[dim] == self._width:
                    own[dim - 1] = width
            joined[k][tuple(slice(size) for size in own)] = scaled_mask(own, rate, generator)
        return joined


class _Dropped(torch.autograd.Function):
    """Under `vmap` alone, which tells it the stacked tensor."""

    @staticmethod
    def forward(given: Tensor, masks: _Masks, rate: float) -> Tensor:
        raise NotImplementedError("there is no pass of stacked students without vmap")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, given: Tensor, masks: _Masks, rate: float) -> tuple[Tensor, int]:
        given = given.movedim(in_dims[0], 0)
        return given * masks.joined(given.shape, rate).to(given.dtype), 0
