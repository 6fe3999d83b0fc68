"""DIST: correlations in the place of a divergence, over the classes of a sample and over the samples of a class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.loss_terms.base import LossTerm, TermNeeds, TermOptions
from harness.loss_terms.parts.divergence import Divergence, logits_of, per_class
from harness.loss_terms.registry import register_term
from strategies.lazy import torch

if TYPE_CHECKING:
    from harness.loss_terms.logit_terms import TermInputs

_EPSILON = 1e-8


@register_term
class DistInter(Divergence[TermOptions]):
    """T^2 [1 - r(p_i, q_i)], r the correlation over the classes of teacher's and student's softmax(. / T) of sample i.

    Huang et al., Knowledge Distillation from A Stronger Teacher, NeurIPS 2022, arXiv 2205.10536, as in `distiller_zoo/dist.py`
    of zkxufo/TTM (weights 1 and 1 for both terms, T = 1). With two classes r is 1 or -1: the term has no gradient.
    """

    name = "dist_inter"
    summary = "1 - correlation of teacher and student over a sample's classes (DIST)"

    def between(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        correlation: torch.Tensor = (_unit(student.exp(), -1) * _unit(teacher.exp(), -1)).sum(-1)
        return 1 - correlation


@register_term
class DistIntra(LossTerm[TermOptions]):
    """T^2 B / 2 mean_c (a_ic - b_ic)^2, a and b the batch's columns p_c and q_c, centred and scaled to length 1.

    The mean over the B samples of the global batch is DIST's T^2 [1 - mean_c r(p_c, q_c)], r the correlation over the samples,
    where no column is constant: the squares are each sample's part of it. The mean over teachers. Source: `dist_inter`.
    """

    name = "dist_intra"
    summary = "1 - correlation of teacher and student over the batch, for each class (DIST): a sample's part of it"

    @classmethod
    def needs(cls, options: TermOptions) -> TermNeeds:
        return TermNeeds(whole_batch=True)

    def __call__(self, inputs: TermInputs) -> torch.Tensor:
        _, teachers = logits_of(inputs)  # refuses a batch without teachers
        temperature, ranks = per_class(inputs.shape.temperature), inputs.ranks
        own = inputs.student_logits.to(teachers.dtype) / temperature
        student = _unit(ranks.gather_with_gradient(own.softmax(-1)), 0)
        values = []
        for logits in teachers:
            teacher = _unit(ranks.gather_rows((logits / temperature).softmax(-1)), 0)
            values.append(len(student) / 2 * (student - teacher).square().mean(-1)[inputs.own_rows])
        mean: torch.Tensor = (torch.stack(values) * inputs.shape.temperature**2).mean(0)
        return mean


def _unit(values: torch.Tensor, dim: int) -> torch.Tensor:
    """Centred and scaled to length 1 along `dim`; a constant becomes 0."""
    centred = values - values.mean(dim, keepdim=True)
    scaled: torch.Tensor = centred / centred.norm(dim=dim, keepdim=True).clamp_min(_EPSILON)
    return scaled
