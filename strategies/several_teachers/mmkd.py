"""MMKD: a network from all logits to teacher weights, trained through the student's look-ahead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from strategies.base import Context, Cost, Needs, Setup, Weights
from strategies.lazy import torch
from strategies.parts.look_ahead_settings import LookAheadSettings
from strategies.parts.meta_network import MetaNetwork, feed_forward
from strategies.parts.several_teachers import PaperScaled, PaperScaleSettings, centred, needs_teachers, scaled
from strategies.registry import register
from strategies.space import FloatRange


class MMKDSettings(LookAheadSettings, PaperScaleSettings):
    meta_learning_rate: float = Field(1e-3, gt=0.0)
    """Of the network's Adam."""
    weight_decay: float = Field(1e-4, ge=0.0)
    """Of the network's Adam."""
    interval: int = Field(5, ge=1)
    """Update the network every so many steps."""
    meta_kd_weight: float = Field(0.0, ge=0.0)
    """Weight of the KD term in the meta loss."""

    search_space = {
        **PaperScaleSettings.search_space,
        "meta_learning_rate": FloatRange(low=1e-4, high=1e-2, log=True),
    }


@register
class MMKD(PaperScaled[MMKDSettings]):
    """w[., i] = softmax over teachers of MLP([all teachers' logits of i; the student's]), one hidden layer of half the inputs.

    The network follows the meta loss after one SGD step of the student on the weighted loss. Its last layer starts at 0: equal
    weights. Logits are taken without their mean over classes, which means nothing.
    """

    name = "mmkd"
    family = "several teachers"
    summary = "a network maps all logits to teacher weights, trained on the meta set"
    paper = "Zhang et al., Adaptive Multi-Teacher KD with Meta-Learning, ICME 2023, arXiv 2306.06634, and the authors' code"
    sample_wise = True
    learned = True
    cost = Cost.LOOK_AHEAD
    reconstruction = (
        "The meta loss is on held-out rows in place of the authors' buffer of the 256 hardest training samples. The term on "
        "intermediate features is left out."
    )
    Settings = MMKDSettings

    def __init__(self, settings: MMKDSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        teachers = len(setup.teachers)
        inputs = (teachers + 1) * setup.classes
        network = feed_forward(inputs, (inputs // 2,), teachers, setup.seed, setup.device)
        self.meta_learner = MetaNetwork(network, settings.meta_learning_rate, weight_decay=settings.weight_decay)

    @classmethod
    def needs(cls, settings: MMKDSettings) -> Needs:
        return needs_teachers(look_ahead=settings.engine, look_ahead_options={"meta_kd_weight": settings.meta_kd_weight})

    def weights(self, context: Context) -> Weights:
        logits = torch.cat([*centred(context.teacher_logits), centred(context.student_logits)], -1)

        def weigh() -> dict[str, torch.Tensor]:
            given = scaled(self.meta_learner.network(logits).softmax(-1).T, self.settings)
            return {
                name: torch.as_tensor(weight, device=logits.device).expand(context.terms[name].shape)
                for name, weight in given.items()
            }

        update = context.step % self.settings.interval == 0 and len(context.teacher_logits) > 1
        return self.meta_learner.weights(weigh, context, update=update)

    def state_dict(self) -> dict[str, Any]:
        return self.meta_learner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.meta_learner.load_state_dict(state)
