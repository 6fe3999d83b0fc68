"""DTKD's term: temperatures that bring the largest logits of student and teacher to the same size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.loss_terms.base import LossTerm, TermOptions
from harness.loss_terms.parts.divergence import kl, logits_of
from harness.loss_terms.registry import register_term
from strategies.lazy import torch

if TYPE_CHECKING:
    from harness.loss_terms.logit_terms import TermInputs

SMALLEST = 1e-3
"""A largest logit counts as at least this: logits that are all the same have no scale."""


@register_term
class DynamicTemperatureKd(LossTerm[TermOptions]):
    """T_s T_t KL( softmax(t / T_t) || softmax(s / T_s) ), T_s = 2 T max(s) / (max(s) + max(t)), T_t = 2 T - T_s.

    The mean over teachers. The gradient goes through T_s, too. Wei & Bai, Dynamic Temperature Knowledge Distillation, arXiv
    2404.12711; `mdistiller/distillers/DTKD.py` of JinYu1998/DTKD. Ours takes the mean over classes from a sample's logits
    first, because the authors' temperatures have a sign and a size that a number added to all logits changes. With two classes
    student and teacher then have the same margin, (max(s) + max(t)) / T: where they agree on the class the term is 0.
    """

    name = "dynamic_temperature_kd"
    summary = "KD with a temperature for each model and sample, after their largest logits (DTKD)"

    def __call__(self, inputs: TermInputs) -> torch.Tensor:
        student, teacher = (logits - logits.mean(-1, keepdim=True) for logits in logits_of(inputs))
        top_student, top_teacher = (logits.max(-1).values.clamp_min(SMALLEST) for logits in (student, teacher))
        whole = 2 * inputs.shape.temperature / (top_student + top_teacher)
        of_student, of_teacher = whole * top_student, whole * top_teacher
        divergence = kl(
            (teacher / of_teacher.unsqueeze(-1)).log_softmax(-1), (student / of_student.unsqueeze(-1)).log_softmax(-1)
        )
        mean: torch.Tensor = (of_student * of_teacher * divergence).mean(0)
        return mean
