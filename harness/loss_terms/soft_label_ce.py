"""Cross-entropy with the teacher's distribution as the label."""

from __future__ import annotations

from harness.loss_terms.base import TermOptions
from harness.loss_terms.parts.divergence import Divergence
from harness.loss_terms.registry import register_term
from strategies.lazy import torch


@register_term
class SoftLabelCe(Divergence[TermOptions]):
    """-T^2 sum_c p_c log q_c, p and q the teacher's and student's softmax(. / T): `kd` plus T^2 times the teacher's entropy.

    To the student its gradient is that of `kd`. A strategy that reads the values of terms sees samples on which the teacher is
    unsure as hard ones; under `kd` they are not.
    """

    name = "soft_label_ce"
    summary = "cross-entropy with the teacher's softened outputs: kd plus the teacher's entropy"

    def between(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = -(teacher.exp() * student).sum(-1)
        return total
