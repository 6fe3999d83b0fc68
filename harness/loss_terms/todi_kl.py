"""ToDi's divergence: forward and reverse KL, mixed anew for each class."""

from __future__ import annotations

from harness.loss_terms.base import TermNeeds, TermOptions
from harness.loss_terms.parts.divergence import Divergence
from harness.loss_terms.registry import register_term
from strategies.lazy import torch


@register_term
class TodiKl(Divergence[TermOptions]):
    """T^2 sum_c [a_c p_c log(p_c / q_c) + (1 - a_c) q_c log(q_c / p_c)], a_c = sigmoid(log(p_c / q_c)) held still.

    p and q: the teacher's and student's softmax(. / T); a_c = p_c / (p_c + q_c). Forward KL, which raises what the student
    holds too improbable, for classes with p > q; reverse KL, which lowers what it holds too probable, for the others. Jung et
    al., ToDi, EMNLP 2025, arXiv 2505.16297; `compute_ToDi` in code/criterions/various_divergence.py of jungseongryong/ToDi,
    which has no T^2.
    """

    name = "todi_kl"
    summary = "forward and reverse KL, mixed for each class by who holds it more probable (ToDi)"

    @classmethod
    def needs(cls, options: TermOptions) -> TermNeeds:
        return TermNeeds(stops_gradient=True)

    def between(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        ratio = teacher - student
        forward = torch.sigmoid(ratio.detach())
        backward = torch.sigmoid(-ratio.detach())  # 1 - forward, without its rounding
        total: torch.Tensor = ((forward * teacher.exp() - backward * student.exp()) * ratio).sum(-1)
        return total
