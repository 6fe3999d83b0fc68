"""What a strategy's weights did in one epoch: their distribution, and how they sort samples that are known to differ."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from harness.records import TermWeights
from strategies.base import Context

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


class WeightLog:
    """Collects the effective weights of an epoch on their device and summarises them at its end."""

    def __init__(self, flipped: np.ndarray | None) -> None:
        """`flipped`: bool [rows of the training data], the planted or injected label flips, or None without any."""
        self._flipped = flipped
        self._rows: list[np.ndarray] = []
        self._teacher_right: list[Tensor] = []
        self._weights: dict[str, list[Tensor]] = {}
        self._by_row: dict[str, list[Tensor]] = {}

    def add(self, rows: np.ndarray, weights: dict[str, Tensor], teacher_right: Tensor | None) -> None:
        """One step: row numbers [batch], weights by term ([batch] or [teachers, batch]), teacher correctness bool [batch]."""
        self._rows.append(rows)
        for name, weight in weights.items():
            # over several teachers a sample's weight on the term is the sum
            self._weights.setdefault(name, []).append(weight if weight.dim() == 1 else weight.sum(0))
            if weight.dim() == 2:
                self._by_row.setdefault(name, []).append(weight.sum(1))
        if teacher_right is not None:
            self._teacher_right.append(teacher_right)

    def summary(self) -> dict[str, TermWeights]:
        """By term."""
        if not self._rows:
            return {}
        right = torch.cat(self._teacher_right).cpu().numpy() if self._teacher_right else None
        flipped = None if self._flipped is None else self._flipped[np.concatenate(self._rows)]
        summaries = {name: _summary(torch.cat(parts).cpu().numpy(), right, flipped) for name, parts in self._weights.items()}
        samples = sum(map(len, self._rows))
        for name, sums in self._by_row.items():
            summaries[name].by_row = (torch.stack(sums).sum(0) / samples).tolist()
        return summaries


def _summary(weights: np.ndarray, right: np.ndarray | None, flipped: np.ndarray | None) -> TermWeights:
    return TermWeights(
        mean=float(weights.mean()),
        quantiles=[float(q) for q in np.quantile(weights, QUANTILES)],
        teacher_right=_mean(weights, right),
        teacher_wrong=_mean(weights, None if right is None else ~right),
        flipped_auroc=None if flipped is None else detection_auroc(-weights, flipped),
    )


def _mean(values: np.ndarray, chosen: np.ndarray | None) -> float | None:
    return float(values[chosen].mean()) if chosen is not None and chosen.any() else None


def detection_auroc(score: np.ndarray, positive: np.ndarray) -> float | None:
    """Probability that a positive has a higher score than a negative, ties counting half; None without both kinds."""
    if positive.all() or not positive.any():
        return None
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, score))


def teacher_right(context: Context) -> Tensor | None:
    """[batch] bool: whether the mean of the teachers' probabilities has the label's class on top; None without teachers."""
    if context.teacher_logits.shape[0] == 0:
        return None
    return context.teacher_logits.softmax(-1).mean(0).argmax(-1) == context.labels
