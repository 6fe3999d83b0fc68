"""Control: a strategy's weights, scaled to a fixed sum."""

from __future__ import annotations

from strategies.base import Context, Normalisation, Weights
from strategies.lazy import torch
from strategies.registry import Wrapper, register_wrapper


@register_wrapper
class MeanOne(Wrapper):
    """All weights times one number, so that a sample's weights (over all terms and teachers) sum to 1 on the batch's average.

    Takes away what a method gains by a larger step alone. A batch whose weights sum to 0 or less stays as it is.
    """

    name = "mean_one"
    family = "control"
    summary = "the strategy's weights, scaled so that they sum to 1 per sample on average"
    paper = "control"
    normalisation_after = Normalisation.BATCH

    def weights(self, context: Context) -> Weights:
        full = {
            name: torch.as_tensor(weight, dtype=torch.float32, device=context.ids.device).expand(context.terms[name].shape)
            for name, weight in self.inner.weights(context).items()
        }
        total = torch.stack([weight.sum() for weight in full.values()]).sum() / len(context.ids)
        return {name: weight / total for name, weight in full.items()} if total > 0 else full
