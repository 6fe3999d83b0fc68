"""EA-KD: weight from the entropies of teacher and student."""

from __future__ import annotations

import math

from pydantic import Field

from strategies.base import Context, Normalisation, Settings, Strategy, Weights
from strategies.parts.probabilities import entropy, student_probabilities, teacher_probabilities
from strategies.registry import register
from strategies.space import FloatRange


class EaKdSettings(Settings):
    kd_weight: float = Field(1.0, ge=0.0)
    """Factor of the KD term."""
    entropy_temperature: float = Field(3.0, gt=0.0)
    """Temperature of both distributions in the entropies."""
    relative: bool = False
    """Divide the weight by its largest value, log classes. Entropies are small with two classes."""

    search_space = {
        "kd_weight": FloatRange(low=0.25, high=8.0, log=True),
        "entropy_temperature": FloatRange(low=1.0, high=5.0),
    }


@register
class EaKd(Strategy[EaKdSettings]):
    """L = mean_i [ce_i + kd_weight * (H_T,i + H_T,i H_S,i / log classes) / 2 * kd_i], entropies in nats.

    The authors' code bounds the entropy by log 1000 on ImageNet and by the number 100 on CIFAR-100; log classes is meant.

    Differs: entropies are divided by log classes, because the authors' bounds are those of their data sets.

    Claims: kd falls with teacher confidence.
    """

    name = "ea_kd"
    family = "sample-wise heuristic"
    summary = "more KD where the teacher, and then also the student, is uncertain"
    paper = "Su et al., EA-KD: Entropy-based Adaptive Knowledge Distillation, ICCV 2025, arXiv 2311.13621"
    sample_wise = True
    normalisation = Normalisation.ADDITIVE
    Settings = EaKdSettings

    def weights(self, context: Context) -> Weights:
        temperature, largest = self.settings.entropy_temperature, math.log(context.classes)
        teacher = entropy(teacher_probabilities(context, temperature))
        student = entropy(student_probabilities(context, temperature))
        value = (teacher + teacher * student / largest) / 2
        return {"ce": 1.0, "kd": self.settings.kd_weight * (value / largest if self.settings.relative else value)}
