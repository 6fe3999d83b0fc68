"""BiKD: a network from two cross-entropies to the weights of both losses, trained on the meta set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from strategies.base import Context, Cost, Needs, Normalisation, Setup, Strategy, Weights
from strategies.lazy import torch
from strategies.parts.look_ahead_settings import LookAheadSettings
from strategies.parts.meta_network import feed_forward, meta_objective
from strategies.parts.probabilities import student_cross_entropy, teacher_cross_entropy
from strategies.parts.state import detached
from strategies.registry import register
from strategies.space import Choice, FloatRange

WEIGHT_DECAY = 1e-4
DECAYS_AT, DECAY = (80 / 120, 100 / 120), 0.8
"""Of the network's learning rate: shares of the training after which it falls, and to how much of it."""


class BikdSettings(LookAheadSettings):
    hidden_layers: int = Field(2, ge=1)
    """Of the network; the authors advise two for CIFAR-100 and one for CIFAR-10."""
    hidden_size: int = Field(64, ge=1)
    """Units of each hidden layer."""
    meta_learning_rate: float = Field(1e-3, gt=0.0)
    """Of the network's Adam."""
    accumulate: int = Field(5, ge=1)
    """The network steps on the mean gradient of so many batches."""
    meta_kd_weight: float = Field(0.0, ge=0.0)
    """Weight of the KD term in the meta loss, beside 1 for cross-entropy: 0 is the authors' `--l_meta hard`, 1 their `mix`."""
    shortest_look_ahead: float = Field(3e-4, ge=0.0)
    """As in `rw_kd`: a look-ahead step whose size is below this is not taken, which saves time and changes nothing."""

    search_space = {
        "meta_learning_rate": FloatRange(low=1e-4, high=1e-2, log=True),
        "accumulate": Choice(values=[1, 2, 5]),
    }


@register
class Bikd(Strategy[BikdSettings]):
    """L = mean_i [w_ce,i ce_i + w_kd,i kd_i], (w_ce,i, w_kd,i) = sigmoid(network(ce_student,i, ce_teacher,i)), no fixed sum.

    The network, with tanh between its layers, follows the meta loss after the student's SGD step on the weighted loss, by Adam
    with weight decay 1e-4, once in `accumulate` batches: `train` and `WNetWrapper` in bilevel_balancing_kd.py, and `WNet` in
    model/metaresnet.py, of phan-tho/Bilevel-balancing-kd. Its learning rate falls to 0.8 of itself after 2/3 and 5/6 of the
    training, as it does there after 80 and 100 of 120 epochs. A student's step comes after the network's, on its new weights.

    Differs: the meta gradient is not multiplied by the student's learning rate, because a fine-tuning's 2e-5 in the place of
    their 0.1 would leave weight decay alone to move the network; gradients of batches left over at an epoch's end count in the
    next, because epochs may be shorter than `accumulate`; the meta set is a sample of train, not balanced over classes, because
    all strategies share it.
    """

    name = "bikd"
    family = "meta-learned"
    summary = "a network weighs CE and KD of each sample, apart, from both cross-entropies"
    paper = (
        "Nguyen, Phan & Ta, Balancing Knowledge Distillation for Imbalance Learning with Bilevel Optimization, PAKDD 2026, "
        "arXiv 2605.17839, and the authors' code"
    )
    sample_wise = True
    learned = True
    cost = Cost.LOOK_AHEAD
    normalisation = Normalisation.ADDITIVE
    Settings = BikdSettings

    def __init__(self, settings: BikdSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        hidden = (settings.hidden_size,) * settings.hidden_layers
        self.network = feed_forward(2, hidden, 2, setup.seed, setup.device, between="Tanh", from_zero=False)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.meta_learning_rate, weight_decay=WEIGHT_DECAY)
        self.waiting = [torch.zeros_like(p) for p in self.network.parameters()]
        """Sums of the gradients of the batches since the last step, and how many they are."""
        self.batches = 0

    @classmethod
    def needs(cls, settings: BikdSettings) -> Needs:
        options = {
            "meta_kd_weight": settings.meta_kd_weight,
            "shortest_step": settings.shortest_look_ahead,
            "weights_at_most": 1.0,
            **settings.step_options,
        }
        return Needs(teachers=(1, None), look_ahead=settings.engine, look_ahead_options=options)

    def weights(self, context: Context) -> Weights:
        assert context.look_ahead is not None
        inputs = torch.stack([student_cross_entropy(context), teacher_cross_entropy(context)], -1)
        weights = self._weigh(inputs)
        influence = context.look_ahead({name: weight.detach() for name, weight in weights.items()})
        gradient = torch.autograd.grad(meta_objective(influence, weights), list(self.network.parameters()))
        for total, one in zip(self.waiting, gradient, strict=True):
            total += one
        self.batches += 1
        if self.batches == self.settings.accumulate:
            self._step(context.progress)
        with torch.no_grad():
            return self._weigh(inputs)

    def _weigh(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        ce, kd = self.network(inputs).sigmoid().unbind(-1)
        return {"ce": ce, "kd": kd}

    def _step(self, progress: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.meta_learning_rate * DECAY ** sum(progress >= at for at in DECAYS_AT)
        for parameter, total in zip(self.network.parameters(), self.waiting, strict=True):
            parameter.grad = total / self.batches
        self.optimizer.step()
        for total in self.waiting:
            total.zero_()
        self.batches = 0

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = detached(
            {
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "waiting": self.waiting,
                "batches": self.batches,
            }
        )
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        for total, saved in zip(self.waiting, state["waiting"], strict=True):
            total.copy_(saved)
        self.batches = int(state["batches"])
