"""TGeo-KD: a network from the geometry of student, teacher, label and class mean to the mixing weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from strategies.base import Context, Cost, Needs, Normalisation, RoleView, Setup, Strategy, Weights
from strategies.lazy import torch
from strategies.parts.look_ahead_settings import LookAheadSettings
from strategies.parts.meta_network import MetaNetwork, feed_forward
from strategies.parts.probabilities import student_probabilities, teacher_probabilities
from strategies.registry import register
from strategies.space import FloatRange

HIDDEN = (32, 16)
VECTORS = 9  # four points and five squared differences, each over the classes


class TgeoSettings(LookAheadSettings):
    meta_learning_rate: float = Field(1e-3, gt=0.0)
    """Of the network's Adam. The release says 0.1, but its network never gets a gradient."""
    weight_decay: float = Field(0.05, ge=0.0)
    """Of the network's Adam."""
    interval: int = Field(1, ge=1)
    """Update the network every so many steps."""
    shortest_look_ahead: float = Field(3e-4, ge=0.0)
    """As in `rw_kd`: a look-ahead step whose size is below this is not taken, which saves time and changes nothing."""

    search_space = {
        "meta_learning_rate": FloatRange(low=1e-4, high=1e-1, log=True),
        "weight_decay": FloatRange(low=1e-4, high=1e-1, log=True),
    }


@register
class Tgeo(Strategy[TgeoSettings]):
    """w_kd,i = sigmoid(network(p_S, p_T, one-hot label, mean p_T of the label's class, five squared differences)), convex.

    The five differences are those of class mean, label and teacher from the student, and of teacher and class mean from the
    label: `state_design`, option 3, in src/fusion_ratio_bilevel.py of Chengming0501/TGeo-KD. The outer loss is cross-entropy on
    the meta set after the student's look-ahead step.

    Differs: the network is trained by the look-ahead that the paper describes, because the released one never trains; its
    learning rate, its gradient's clipping to a norm of 1, its last layer from 0 and class means over all training rows are
    ours, because the release says nothing that works, and batches here are parts of the training set.
    """

    name = "tgeo"
    family = "meta-learned"
    summary = "a network weighs each sample from the geometry of student, teacher, label and class mean"
    paper = (
        "Hu et al., Less or More From Teacher: Exploiting Trilateral Geometry For Knowledge Distillation, ICLR 2024, "
        "arXiv 2312.15112"
    )
    sample_wise = True
    learned = True
    cost = Cost.LOOK_AHEAD
    normalisation = Normalisation.CONVEX
    reconstruction = (
        "The inputs are from the released code, whose controller is evaluated without gradients and never trains; here it is "
        "trained by the look-ahead that the paper describes. Ours: the network's learning rate, its last layer that starts at "
        "0, and class means over the training rows once; the release takes those of the batch, which is its whole training set."
    )
    Settings = TgeoSettings

    def __init__(self, settings: TgeoSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        network = feed_forward(VECTORS * setup.classes, HIDDEN, 1, setup.seed, setup.device, between="LeakyReLU")
        self.meta_learner = MetaNetwork(network, settings.meta_learning_rate, weight_decay=settings.weight_decay)
        self.class_means = class_means(setup.fit, setup.classes).to(setup.device)

    @classmethod
    def needs(cls, settings: TgeoSettings) -> Needs:
        options = {"shortest_step": settings.shortest_look_ahead, "weights_at_most": 1.0, **settings.step_options}
        return Needs(teachers=(1, None), look_ahead=settings.engine, look_ahead_options=options)

    def weights(self, context: Context) -> Weights:
        inputs = self.inputs(context)

        def weigh() -> dict[str, torch.Tensor]:
            kd = self.meta_learner.network(inputs).squeeze(-1).sigmoid()
            return {"ce": 1 - kd, "kd": kd}

        return self.meta_learner.weights(weigh, context, update=context.step % self.settings.interval == 0)

    def inputs(self, context: Context) -> torch.Tensor:
        """[batch, VECTORS * classes]."""
        student, teacher = student_probabilities(context), teacher_probabilities(context)
        label = torch.nn.functional.one_hot(context.labels, context.classes).float()
        mean = self.class_means[context.labels]
        pairs = ((mean, student), (label, student), (teacher, student), (teacher, label), (mean, label))
        return torch.cat([student, teacher, label, mean, *((a - b) ** 2 for a, b in pairs)], dim=-1)

    def state_dict(self) -> dict[str, Any]:
        return self.meta_learner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.meta_learner.load_state_dict(state)


def class_means(rows: RoleView, classes: int) -> torch.Tensor:
    """[classes, classes]: the teachers' mean probabilities over the rows of each class; uniform for an absent class."""
    probabilities = rows.teacher_logits.softmax(-1).mean(0)
    means = [probabilities[rows.labels == label] for label in range(classes)]
    uniform = torch.full((classes,), 1 / classes)
    return torch.stack([found.mean(0) if len(found) else uniform for found in means])
