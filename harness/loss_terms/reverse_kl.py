"""KD in the other direction: the student's distribution against the teacher's."""

from __future__ import annotations

from harness.loss_terms.base import TermOptions
from harness.loss_terms.parts.divergence import Divergence, kl
from harness.loss_terms.registry import register_term
from strategies.lazy import torch


@register_term
class ReverseKl(Divergence[TermOptions]):
    """T^2 KL( softmax(s / T) || softmax(t / T) ): costs where the student has probability that the teacher has not.

    The divergence of MiniLLM (Gu et al., ICLR 2024, arXiv 2306.08543), here without samples from the student.
    """

    name = "reverse_kl"
    summary = "KL divergence from the student's to the teacher's distribution"

    def between(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return kl(student, teacher)
