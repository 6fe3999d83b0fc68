"""Weighted soft labels."""

from __future__ import annotations

from pydantic import Field

from strategies.base import Context, Normalisation, Settings, Strategy, Weights
from strategies.lazy import torch
from strategies.parts.probabilities import student_cross_entropy, teacher_cross_entropy
from strategies.registry import register
from strategies.space import FloatRange


def soft_label_weight(context: Context) -> torch.Tensor:
    """[batch], in [0, 1): 1 - exp(-ce_student / ce_teacher), at temperature 1; small where the student beats the teacher."""
    return 1 - torch.exp(-student_cross_entropy(context) / (teacher_cross_entropy(context) + 1e-7))


class WslSettings(Settings):
    kd_weight: float = Field(2.5, ge=0.0)
    """Factor of the KD term; the authors use 2.5 on ImageNet."""

    search_space = {"kd_weight": FloatRange(low=0.5, high=5.0, log=True)}


@register
class Wsl(Strategy[WslSettings]):
    """L = mean_i [ce_i + kd_weight * w_i * kd_i], w_i = 1 - exp(-ce_student,i / ce_teacher,i).

    As published.

    Claims: kd rises with teacher agreement.
    """

    name = "wsl"
    family = "sample-wise heuristic"
    summary = "less KD where the student already beats the teacher"
    paper = (
        "Zhou et al., Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective, ICLR 2021, "
        "arXiv 2102.00650"
    )
    sample_wise = True
    normalisation = Normalisation.ADDITIVE
    Settings = WslSettings

    def weights(self, context: Context) -> Weights:
        return {"ce": 1.0, "kd": self.settings.kd_weight * soft_label_weight(context)}
