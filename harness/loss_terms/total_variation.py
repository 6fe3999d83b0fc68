"""Half the sum of the differences of two distributions."""

from __future__ import annotations

from harness.loss_terms.base import TermOptions
from harness.loss_terms.parts.divergence import Divergence
from harness.loss_terms.registry import register_term
from strategies.lazy import torch


@register_term
class TotalVariation(Divergence[TermOptions]):
    """T / 2 sum_c |p_c - q_c|, p and q the teacher's and student's softmax(. / T): at most T.

    T, not T^2, for it is linear near equality: its gradient does not fall as the student comes near the teacher. `compute_tvd`
    in code/criterions/various_divergence.py of jungseongryong/ToDi, without the factor.
    """

    name = "total_variation"
    summary = "total variation distance of teacher and student"
    power = 1

    def between(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = (teacher.exp() - student.exp()).abs().sum(-1) / 2
        return total
