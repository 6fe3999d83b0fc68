"""Comparisons that rounding must not decide: it differs between one process and several, and between processors."""

from __future__ import annotations

from strategies.lazy import torch

ROUNDING = 1e-6
"""Below this a mean float32 loss, an entropy in nats or a distance of probabilities is rounding, of any size and sign."""


def loss_ratio(now: float, before: float) -> float:
    """How far a term's mean loss has come: that now in those before, never negative; 1 where both are rounding."""
    return max(now, ROUNDING) / max(before, ROUNDING)


def highest(values: torch.Tensor, count: int) -> torch.Tensor:
    """[batch] -> [batch] bool: the `count` highest of `values`, and all that tie with the last of them up to rounding."""
    return values >= values.topk(count).values[-1] - ROUNDING
