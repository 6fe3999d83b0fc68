"""Meta-Weight-Net: a network from a sample's loss to its weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from strategies.base import Context, Cost, Needs, Normalisation, Setup, Strategy, Weights
from strategies.lazy import torch
from strategies.parts.look_ahead_settings import LookAheadSettings
from strategies.parts.meta_network import MetaNetwork, feed_forward
from strategies.parts.mixture import as_term_weights, mixture
from strategies.registry import register
from strategies.space import FloatRange, IntRange


class MetaWeightNetSettings(LookAheadSettings):
    kd_weight: float = Field(0.5, ge=0.0, le=1.0)
    """Mixing weight of the KD term within each sample's loss."""
    hidden_size: int = Field(100, ge=1)
    """Units of the network's hidden layer."""
    meta_learning_rate: float = Field(1e-3, gt=0.0)
    """Of the network's Adam."""
    weight_decay: float = Field(1e-4, ge=0.0)
    """Of the network's Adam."""
    interval: int = Field(1, ge=1)
    """Update the network every so many steps."""
    shortest_look_ahead: float = Field(3e-4, ge=0.0)
    """As in `rw_kd`: a look-ahead step whose size is below this is not taken, which saves time and changes nothing."""
    meta_kd_weight: float = Field(0.0, ge=0.0)
    """Weight of the KD term in the meta loss."""

    search_space = {
        "kd_weight": FloatRange(low=0.05, high=0.95),
        "hidden_size": IntRange(low=16, high=256, log=True),
        "meta_learning_rate": FloatRange(low=1e-5, high=1e-2, log=True),
    }


@register
class MetaWeightNet(Strategy[MetaWeightNetSettings]):
    """w_i = batch * V(l_i) / sum_j V(l_j), V a 1-hidden-1 network with a sigmoid, l_i = (1 - kd_weight) ce_i + kd_weight kd_i.

    V follows the meta loss after one SGD step of the student on the weighted loss. Two programs of
    xjtushujun/meta-weight-net differ: `train_WRN-28-10_Meta_PGC.py` divides by the batch's sum, and V has SGD with momentum
    0.9, learning rate 1e-3 and weight decay 5e-4; `MW-Net.py` does not divide, and V has Adam with 1e-3 and 1e-4. Here the
    weights are those of the first and Adam is that of the second, since the meta gradient's size goes with the student's
    learning rate: with 2e-5 in the place of 0.1, SGD would leave V where it starts.

    Differs: the loss is the mixture with KD, because the paper has labels alone; the learning rate does not multiply V's
    gradient, V's last layer starts at 0 and its gradient is clipped, because V would else not leave its start, or start with
    unequal weights.
    """

    name = "meta_weight_net"
    family = "meta-learned"
    summary = "a network maps each sample's loss to its weight, trained on the meta set"
    paper = "Shu et al., Meta-Weight-Net: Learning an Explicit Mapping For Sample Weighting, NeurIPS 2019, arXiv 1902.07379"
    sample_wise = True
    learned = True
    cost = Cost.LOOK_AHEAD
    normalisation = Normalisation.BATCH
    reconstruction = (
        "A transfer: the paper's loss is cross-entropy alone, here the mixture with KD. Weights divided by the batch's sum "
        "as in one of the authors' programs, Adam with its constants as in the other. Ours: V's last layer starts at 0, so "
        "that all weights are equal; V's gradient is clipped to a norm of 1; the look-ahead is an SGD step, the student's "
        "own is AdamW."
    )
    Settings = MetaWeightNetSettings

    def __init__(self, settings: MetaWeightNetSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        network = feed_forward(1, (settings.hidden_size,), 1, setup.seed, setup.device)
        self.meta_learner = MetaNetwork(network, settings.meta_learning_rate, weight_decay=settings.weight_decay)

    @classmethod
    def needs(cls, settings: MetaWeightNetSettings) -> Needs:
        options = {
            "meta_kd_weight": settings.meta_kd_weight,
            "shortest_step": settings.shortest_look_ahead,
            **settings.step_options,
        }
        return Needs(teachers=(1, None), look_ahead=settings.engine, look_ahead_options=options)

    def weights(self, context: Context) -> Weights:
        loss = mixture(context.terms, self.settings.kd_weight).unsqueeze(-1)

        def weigh() -> dict[str, torch.Tensor]:
            value = self.meta_learner.network(loss).squeeze(-1).sigmoid()
            return as_term_weights(len(value) * value / value.sum(), self.settings.kd_weight)

        return self.meta_learner.weights(weigh, context, update=context.step % self.settings.interval == 0)

    def state_dict(self) -> dict[str, Any]:
        return self.meta_learner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.meta_learner.load_state_dict(state)
