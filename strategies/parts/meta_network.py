"""A small network that turns features of samples into weights, and is trained by the look-ahead.

With weights w[m, i](phi) of the terms m, a one-step SGD look-ahead theta' = theta - eta * grad mean_i sum_m w[m, i] term[m, i]
has the meta gradient

    d L_meta(theta') / d phi = -(eta / batch) * sum_i sum_m a[m, i] * d w[m, i] / d phi,
    a[m, i] = <grad L_meta(theta'), grad term[m, i](theta)>,

so the a[m, i] of `Context.look_ahead` and a backward pass through the small network alone replace the second-order graph
(checked against the double backward in the tests). The positive factor eta is left out: Adam divides by the gradient's
scale anyway, and with a Transformer's learning rate (1e-5) the factor would push the gradient under Adam's epsilon.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from strategies.base import Context, LookAheadFunction
from strategies.lazy import torch
from strategies.parts.state import detached


def feed_forward(
    inputs: int,
    hidden: tuple[int, ...],
    outputs: int,
    seed: int,
    device: torch.device,
    *,
    between: Literal["ReLU", "LeakyReLU", "Tanh"] = "ReLU",
    from_zero: bool = True,
) -> torch.nn.Sequential:
    """Linear layers with an activation between. `from_zero`: the last starts at zero, and the first output is 0 for every
    input; else as torch initialises it.

    Initialised from `seed` alone; no global generator is touched.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = (inputs, *hidden, outputs)
    layers: list[torch.nn.Module] = []
    for index, (before, after) in enumerate(itertools.pairwise(sizes)):
        layer = torch.nn.utils.skip_init(torch.nn.Linear, before, after)  # type: ignore[no-untyped-call]
        last = index == len(hidden)
        bound = 0.0 if last and from_zero else 1 / math.sqrt(before)  # torch.nn.Linear's own initialisation
        torch.nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
        torch.nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
        layers += [layer] if last else [layer, getattr(torch.nn, between)()]
    return torch.nn.Sequential(*layers).to(device)


def meta_objective(influence: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """-(1 / batch) sum_i sum_m a[m, i] w[m, i]: its gradient is the meta loss's, divided by the look-ahead's step size.

    Both by term, [batch] or [teachers, batch].
    """
    total = torch.stack([(influence[name].detach() * weight).sum() for name, weight in weights.items()]).sum()
    batch = next(iter(weights.values())).shape[-1]
    return -total / batch


class MetaNetwork:
    """The network, its optimiser (Adam, gradient norm clipped), and the update from a look-ahead."""

    def __init__(self, network: torch.nn.Module, learning_rate: float, *, weight_decay: float = 0.0, clip: float = 1.0) -> None:
        self.network = network
        self.clip = clip
        self.optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, weight_decay=weight_decay)

    def weights(
        self, weigh: Callable[[], dict[str, torch.Tensor]], context: Context, *, update: bool, step_scale: float = 1.0
    ) -> dict[str, torch.Tensor]:
        """What `weigh` gives, without a graph; after one step on the context's look-ahead, where it is time to `update`."""
        if update:
            assert context.look_ahead is not None
            self.update(weigh, context.look_ahead, step_scale)
        with torch.no_grad():
            return weigh()

    def update(
        self,
        weigh: Callable[[], Mapping[str, torch.Tensor]],
        look_ahead: LookAheadFunction,
        step_scale: float = 1.0,
    ) -> None:
        """One Adam step on the meta loss after the student's look-ahead.

        `weigh` computes the weights with a graph to the network's parameters. `step_scale` multiplies the look-ahead's step.
        """
        weights = weigh()
        # the look-ahead's step is learning rate times the weighted gradient: scaling the weights scales the step
        influence = look_ahead({name: step_scale * weight.detach() for name, weight in weights.items()})
        self.descend(meta_objective(influence, weights))

    def descend(self, objective: torch.Tensor) -> None:
        """One clipped Adam step on `objective`."""
        self.optimizer.zero_grad(set_to_none=True)
        objective.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = detached({"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()})
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
