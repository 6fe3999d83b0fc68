"""The symmetric, bounded divergence of two distributions from their mean."""

from __future__ import annotations

import math

from harness.loss_terms.base import TermOptions
from harness.loss_terms.parts.divergence import Divergence, kl
from harness.loss_terms.registry import register_term
from strategies.lazy import torch


@register_term
class JensenShannon(Divergence[TermOptions]):
    """T^2 [KL( p || m ) + KL( q || m )] / 2, m = (p + q) / 2, p and q the teacher's and student's softmax(. / T).

    At most T^2 log 2 (Lin, Divergence Measures Based on the Shannon Entropy, 1991).
    """

    name = "jensen_shannon"
    summary = "Jensen-Shannon divergence of teacher and student"

    def between(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        middle = torch.logaddexp(student, teacher) - math.log(2)
        return (kl(teacher, middle) + kl(student, middle)) / 2
