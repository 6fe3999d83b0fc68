"""The per-sample loss that re-weighting methods for one loss are given here: a fixed mixture of cross-entropy and KD."""

from __future__ import annotations

from collections.abc import Mapping

from strategies.lazy import torch


def mixture(values: Mapping[str, torch.Tensor], kd_weight: float) -> torch.Tensor:
    """(1 - kd_weight) ce + kd_weight kd of losses, or of influences, each [batch]."""
    return (1 - kd_weight) * values["ce"] + kd_weight * values["kd"]


def as_term_weights(weight: torch.Tensor, kd_weight: float) -> dict[str, torch.Tensor]:
    """The terms' weights that give the mixture of each sample this weight, [batch]."""
    return {"ce": (1 - kd_weight) * weight, "kd": kd_weight * weight}
