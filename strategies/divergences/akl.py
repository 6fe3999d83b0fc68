"""AKL: forward and reverse KL, mixed for each sample by where the student is wrong."""

from __future__ import annotations

from pydantic import Field

from strategies.base import Context, Needs, Normalisation, Settings, Strategy, Weights
from strategies.lazy import torch
from strategies.parts.probabilities import student_probabilities, teacher_probabilities
from strategies.registry import register
from strategies.space import FloatRange


class AklSettings(Settings):
    kd_weight: float = Field(0.5, ge=0.0, le=1.0)
    """Weight of both divergences together; cross-entropy gets the rest."""
    head_mass: float = Field(0.5, gt=0.0, lt=1.0)
    """The head: the teacher's most probable class, and the next ones while their sum is at most this (mu in the paper)."""

    search_space = {"kd_weight": FloatRange(low=0.3, high=1.0), "head_mass": FloatRange(low=0.3, high=0.95)}


@register
class Akl(Strategy[AklSettings]):
    """L = mean_i [(1 - kd_weight) ce_i + kd_weight (h_i KL(p_i || q_i) + (1 - h_i) KL(q_i || p_i))], divergences with T^2.

    h_i = g_head / (g_head + g_tail), the sums of |p - q| over the teacher's head and over its other classes: forward KL fits
    the head first and reverse KL the tail. p and q: teacher's and student's softmax(. / T). As `AKL.py` of
    wutaiqiang/LLM_KD_AKL, with samples in the place of tokens, and T (1 there).

    With two classes both differences are the same number, so h_i is 1/2 for every sample: AKL is then the fixed mean of both
    divergences, and its gradient nearly forward KL's, in the same direction always and of the same size near agreement. It
    needs more classes to weigh anything.

    Differs: the share of the labels (kd_weight), T and T^2, because the authors' code has the divergence alone, for
    tokens at temperature 1; and in h = 1/2 where teacher and student agree exactly, which is 0 / 0 there.
    """

    name = "akl"
    family = "divergences"
    summary = "forward and reverse KL, mixed by the student's error on the teacher's likely classes"
    paper = (
        "Wu et al., Rethinking Kullback-Leibler Divergence in Knowledge Distillation for Large Language Models, COLING 2025, "
        "arXiv 2404.02657"
    )
    sample_wise = True
    normalisation = Normalisation.CONVEX
    Settings = AklSettings

    @classmethod
    def needs(cls, settings: AklSettings) -> Needs:
        return Needs(terms=("ce", "kd", "reverse_kl"))

    def weights(self, context: Context) -> Weights:
        kd, head = self.settings.kd_weight, self.head_share(context)
        return {"ce": 1 - kd, "kd": kd * head, "reverse_kl": kd * (1 - head)}

    def head_share(self, context: Context) -> torch.Tensor:
        """h, [batch], in [0, 1]."""
        teacher, order = teacher_probabilities(context, context.temperature).sort(-1, descending=True)
        student = student_probabilities(context, context.temperature).gather(-1, order)
        head = teacher.cumsum(-1) <= self.settings.head_mass
        head[:, 0] = True
        gap = (teacher - student).abs()
        in_head, whole = (gap * head).sum(-1), gap.sum(-1)
        return torch.where(whole > 0, in_head / whole.clamp_min(torch.finfo(whole.dtype).tiny), 0.5)
