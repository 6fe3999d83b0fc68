"""Transformed teacher matching: a temperature for the teacher alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.loss_terms.base import LossTerm, TermOptions
from harness.loss_terms.parts.divergence import kl, logits_of, per_class
from harness.loss_terms.registry import register_term
from strategies.lazy import torch

if TYPE_CHECKING:
    from harness.loss_terms.logit_terms import TermInputs


@register_term
class TransformedTeacher(LossTerm[TermOptions]):
    """KL( softmax(t / T) || softmax(s) ), the mean over teachers: the student itself is compared, at temperature 1.

    softmax(t / T) is the power transform p^g / sum_c p_c^g of the teacher's distribution p with g = 1 / T. No factor T^2.
    Zheng & Yang, Knowledge Distillation Based on Transformed Teacher Matching, ICLR 2024, arXiv 2402.11148;
    `distiller_zoo/ttm.py` of zkxufo/TTM.
    """

    name = "transformed_teacher"
    summary = "KD with a temperature for the teacher, and none for the student (TTM)"

    def __call__(self, inputs: TermInputs) -> torch.Tensor:
        student, teacher = logits_of(inputs)
        softened = (teacher / per_class(inputs.shape.temperature)).log_softmax(-1)
        mean: torch.Tensor = kl(softened, student.log_softmax(-1)).mean(0)
        return mean
