"""Pieces of a strategy's state that are the same for many strategies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from strategies.lazy import torch


def detached(state: Any) -> Any:
    """A copy of nested dicts and lists with every tensor cloned: later training does not change it."""
    if isinstance(state, Mapping):
        return {key: detached(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [detached(value) for value in state]
    return state.detach().clone() if isinstance(state, torch.Tensor) else state


class SampleMemory:
    """One number for each training row, found by the rows' ids."""

    def __init__(self, ids: torch.Tensor, initial: float, device: torch.device) -> None:
        """`ids`: [rows] int64, distinct, in any order."""
        self._ids = ids.to(device).sort().values
        self.values = torch.full((len(ids),), initial, device=device)
        self.seen = torch.zeros(len(ids), dtype=torch.bool, device=device)

    def __getitem__(self, ids: torch.Tensor) -> torch.Tensor:
        """[batch]."""
        return self.values[self.position(ids)]

    def __setitem__(self, ids: torch.Tensor, values: torch.Tensor) -> None:
        position = self.position(ids)
        self.values[position] = values.detach()
        self.seen[position] = True

    def average(self, ids: torch.Tensor, values: torch.Tensor, keep: float) -> torch.Tensor:
        """Store and return keep * old + (1 - keep) * new; the new value alone for a row seen for the first time."""
        old = torch.where(self.seen[self.position(ids)], self[ids], values)
        self[ids] = keep * old + (1 - keep) * values
        return self[ids]

    def position(self, ids: torch.Tensor) -> torch.Tensor:
        """[batch] int64: rows of `values`."""
        return torch.searchsorted(self._ids, ids.to(self._ids.device))

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"values": self.values.clone(), "seen": self.seen.clone()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self.values.copy_(state["values"])
        self.seen.copy_(state["seen"])


class RunningStandardisation:
    """Centres and scales features by running moments: of all samples at first, then of the last hundred or so batches."""

    def __init__(self, features: int, device: torch.device, slowest: float = 0.01) -> None:
        """`slowest`: the smallest share that a new batch has in the moments."""
        self.slowest = slowest
        self.batches = 0
        self.mean = torch.zeros(features, device=device)
        self.variance = torch.ones(features, device=device)

    def update(self, features: torch.Tensor) -> None:
        """Take in a batch, [batch, features]."""
        self.batches += 1
        share = max(1 / self.batches, self.slowest)
        mean, variance = features.mean(0), features.var(0, correction=0)
        difference = mean - self.mean
        # the variance of the mixture of what was seen and the new batch
        self.variance = (1 - share) * self.variance + share * variance + share * (1 - share) * difference**2
        if self.batches == 1:
            self.variance = variance
        self.mean = self.mean + share * difference

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """A feature that does not vary becomes 0."""
        return (features - self.mean) / self.variance.sqrt().clamp_min(1e-4)

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches, "mean": self.mean.clone(), "variance": self.variance.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.batches = int(state["batches"])
        self.mean.copy_(state["mean"])
        self.variance.copy_(state["variance"])
