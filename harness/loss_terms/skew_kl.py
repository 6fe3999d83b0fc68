"""KL divergences with mixtures of both distributions, so that none is divided by almost nothing."""

from __future__ import annotations

import math

from pydantic import Field

from harness.loss_terms.base import TermOptions
from harness.loss_terms.parts.divergence import Divergence, kl
from harness.loss_terms.registry import register_term
from strategies.lazy import torch


class SkewOptions(TermOptions):
    skew: float = Field(0.1, gt=0.0, lt=1.0)
    """Share of the first distribution in the mixture that it is compared with; as it goes to 0 the mixture is the second."""


@register_term
class SkewKl(Divergence[SkewOptions]):
    """T^2 KL( p || skew p + (1 - skew) q ), p and q the teacher's and student's softmax(. / T).

    Ko et al., DistiLLM, ICML 2024, arXiv 2402.03898; `skewed_forward_kl` in distillm/losses.py of jongwooko/distillm, whose
    scripts have 0.1, too, but no T^2.
    """

    name = "skew_kl"
    summary = "KL divergence from the teacher to a mixture with the student (DistiLLM)"
    Options = SkewOptions

    def between(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return _skewed(teacher, student, self.options.skew)


@register_term
class SkewReverseKl(Divergence[SkewOptions]):
    """T^2 KL( q || skew q + (1 - skew) p ): `skew_kl` with teacher p and student q in each other's place.

    `skewed_reverse_kl` in the same file.
    """

    name = "skew_reverse_kl"
    summary = "KL divergence from the student to a mixture with the teacher (DistiLLM)"
    Options = SkewOptions

    def between(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return _skewed(student, teacher, self.options.skew)


class BidirectionalOptions(TermOptions):
    mixing: float = Field(0.9, gt=0.0, lt=1.0)
    """Share of the student in the first mixture, and of the teacher in the second (lambda in the paper). As it goes to 0 this
    is KL from the teacher, as it goes to 1 KL from the student; at 1/2 both mixtures are the same, and it is 0."""


@register_term
class BidirectionalKl(Divergence[BidirectionalOptions]):
    """T^2 KL( (1 - mixing) p + mixing q || mixing p + (1 - mixing) q ), p teacher's and q student's softmax(. / T).

    Both mixtures depend on the student, and the gradient goes through both. Whatever p and q, the mixtures' ratio stays between
    (1 - mixing) / mixing and its inverse. He et al., DA-KD, ICML 2025, eq. 4, which has no T^2.
    """

    name = "bidirectional_kl"
    summary = "KL divergence between two mixtures of teacher and student, bounded both ways (DA-KD)"
    Options = BidirectionalOptions

    def between(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        mixing = self.options.mixing
        return kl(_mixture(student, teacher, mixing), _mixture(teacher, student, mixing))


def _skewed(first: torch.Tensor, second: torch.Tensor, skew: float) -> torch.Tensor:
    return kl(first, _mixture(first, second, skew))


def _mixture(first: torch.Tensor, second: torch.Tensor, share: float) -> torch.Tensor:
    """Of logarithms: log(share exp(first) + (1 - share) exp(second))."""
    return torch.logaddexp(first + math.log(share), second + math.log1p(-share))
