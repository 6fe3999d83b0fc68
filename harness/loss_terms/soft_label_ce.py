"""Cross-entropy with the teacher's distribution as the label, or with one between the student's own and the teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.loss_terms.base import LossTerm, TermNeeds, TermOptions
from harness.loss_terms.parts.divergence import Divergence, logits_of, per_class
from harness.loss_terms.registry import register_term
from strategies.lazy import torch

if TYPE_CHECKING:
    from harness.loss_terms.logit_terms import TermInputs


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


@register_term
class InterpolatedCe(LossTerm[TermOptions]):
    """-T^2 sum_c m_c log q_c, m = softmax(((1 - r) s + r t) / T) held still, r the step's `TermShape.teacher_share`.

    With r = 1 it is `soft_label_ce`. The mean over teachers. Shing et al., TAID, ICLR 2025, arXiv 2501.16937;
    `src/distil_losses/taid.py` of SakanaAI/TAID, where T is 1.
    """

    name = "interpolated_ce"
    summary = "cross-entropy with a target between the student's own outputs and the teacher's (TAID)"

    @classmethod
    def needs(cls, options: TermOptions) -> TermNeeds:
        return TermNeeds(stops_gradient=True)

    def __call__(self, inputs: TermInputs) -> torch.Tensor:
        student, teacher = logits_of(inputs)
        temperature, share = per_class(inputs.shape.temperature), inputs.shape.teacher_share
        target = (((1 - share) * student.detach() + share * teacher) / temperature).softmax(-1)
        values = -(target * (student / temperature).log_softmax(-1)).sum(-1)
        mean: torch.Tensor = (values * inputs.shape.temperature**2).mean(0)
        return mean
