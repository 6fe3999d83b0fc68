"""Control: a strategy's weights, replaced by their mean over the batch."""

from __future__ import annotations

from strategies.base import Context, Weights
from strategies.lazy import torch
from strategies.registry import Wrapper, register_wrapper


@register_wrapper
class BatchMean(Wrapper):
    """Each term's weight (for terms per teacher: each teacher's) is its mean over the batch: no sample differs from another."""

    name = "batch_mean"
    family = "control"
    summary = "the mean over the batch of the strategy's weights"
    paper = "control"
    sample_wise_after = False

    def weights(self, context: Context) -> Weights:
        weights = {name: torch.as_tensor(weight, dtype=torch.float32) for name, weight in self.inner.weights(context).items()}
        return {n: w.mean(-1, keepdim=True) if w.dim() > 0 else w for n, w in weights.items()}
