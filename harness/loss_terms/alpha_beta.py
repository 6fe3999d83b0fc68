"""The alpha-beta divergence: one family with forward and reverse KL at its corners."""

from __future__ import annotations

from pydantic import Field

from harness.loss_terms.base import TermOptions
from harness.loss_terms.parts.divergence import Divergence
from harness.loss_terms.registry import register_term
from strategies.lazy import torch


class AlphaBetaOptions(TermOptions):
    alpha: float = Field(0.5, ge=0.0)
    """The teacher's exponent. More of it looks more at classes where the two differ much."""
    beta: float = Field(0.5, ge=0.0)
    """The student's exponent. More of it looks more at classes that the student is sure of."""


@register_term
class AlphaBeta(Divergence[AlphaBetaOptions]):
    """-T^2 / (a b) sum_c [p^a q^b - a / (a + b) p^(a + b) - b / (a + b) q^(a + b)], p teacher's and q student's softmax(. / T).

    (1, 0) is forward KL and (0, 1) reverse KL; (0, 0) is half the squared difference of the logarithms. Wang et al., ABKD, ICML
    2025, arXiv 2505.04560; `standard_classification/distiller_zoo/abkl.py` of ghwang-s/abkd. Ours differs in T^2, in that no
    exponent is negative, and in that an exponent of 0 is the limit: there it has 1 / b, or 1 / a, for the limit's square of it.
    """

    name = "alpha_beta"
    summary = "alpha-beta divergence: forward KL at (1, 0), reverse KL at (0, 1)"
    Options = AlphaBetaOptions

    def between(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        a, b = self.options.alpha, self.options.beta
        difference = student - teacher
        if a == b == 0:
            each = difference.square() / 2
        elif a == 0:
            each = ((b * student).exp() * (b * difference - 1) + (b * teacher).exp()) / b**2
        elif b == 0:
            each = ((a * student).exp() - (a * teacher).exp() * (a * difference + 1)) / a**2
        else:
            whole = a + b
            ends = a / whole * (whole * teacher).exp() + b / whole * (whole * student).exp()
            each = (ends - (a * teacher + b * student).exp()) / (a * b)
        total: torch.Tensor = each.sum(-1)
        return total
