"""Control: a strategy's weights, dealt out at random over the batch."""

from __future__ import annotations

from strategies.base import Context, Weights
from strategies.lazy import torch
from strategies.registry import Wrapper, register_wrapper


@register_wrapper
class Shuffled(Wrapper):
    """The same weights, permuted over the samples of the batch: the same distribution, and no information about samples.

    All terms are permuted alike, so a sample still gets weights that belong together. What the inner strategy learns, it learns
    from its own weights.
    """

    name = "shuffled"
    family = "control"
    summary = "the strategy's weights permuted over the batch"
    paper = "control"

    def weights(self, context: Context) -> Weights:
        weights = {name: torch.as_tensor(weight) for name, weight in self.inner.weights(context).items()}
        order = torch.randperm(len(context.ids), generator=context.generator).to(context.ids.device)
        # a weight that is the same for all samples stays: [], [1], [teachers, 1]
        return {n: w[..., order] if w.dim() > 0 and w.shape[-1] == len(order) else w for n, w in weights.items()}
