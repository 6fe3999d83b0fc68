"""Dropout masks that are drawn once and used in several passes, whatever kernels these passes take.

On a GPU a training pass's fused attention draws its masks within the kernel, which neither forward mode nor double backward can
take: passes of these would draw others from the same state of the generator, in attention and in all layers above it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode


class DropoutMasks:
    """Of one pass of a model on a GPU, in the order in which its layers ask. Attention with dropout is then taken apart."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._masks: list[Tensor] = []

    @contextlib.contextmanager
    def drawn(self) -> Iterator[None]:
        """The pass within draws them."""
        self.forget()

        def draw(shape: torch.Size, rate: float) -> Tensor:
            mask = torch.empty(shape, dtype=torch.bool, device=self._device).bernoulli_(1 - rate)
            self._masks.append(mask)
            return mask

        with _Given(draw):
            yield

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """The pass within uses them. Raises RuntimeError where its layers are not those of the first one."""
        kept = iter(self._masks)

        def take(shape: torch.Size, rate: float) -> Tensor:
            mask = next(kept, None)
            if mask is None or mask.shape != shape:
                raise RuntimeError(f"a repeated pass asks for a dropout mask {tuple(shape)} that the first one did not draw")
            return mask

        with _Given(take):
            yield

    def forget(self) -> None:
        """What was drawn so far: of layers that are not passed again."""
        self._masks.clear()


class _Given(TorchFunctionMode):
    """Dropout, and attention with dropout, with masks from `masks`: (shape, rate) -> what is kept."""

    def __init__(self, masks: Any) -> None:
        super().__init__()
        self._masks = masks

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.dropout:
            return self._dropout(*args, **(kwargs or {}))
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _dropout(self, given: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or not 0 < p < 1:
            return F.dropout(given, p, training, inplace)
        dropped: Tensor = given * self._masks(given.shape, p) * (1 / (1 - p))
        return dropped

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if dropout_p == 0 or is_causal or enable_gqa:
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        kind = query.device.type
        if torch.is_autocast_enabled(kind):
            query, key, value = (tensor.to(torch.get_autocast_dtype(kind)) for tensor in (query, key, value))
        scores = torch.matmul(query, key.transpose(-2, -1)).float() * (scale or query.shape[-1] ** -0.5)
        if attn_mask is not None:
            hidden = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min) if hidden else scores + attn_mask
        probabilities = scores.softmax(-1)
        return torch.matmul(self._dropout(probabilities, dropout_p).to(value.dtype), value)
