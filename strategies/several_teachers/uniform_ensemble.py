"""Several teachers with equal weights."""

from __future__ import annotations

from strategies.base import Context, Needs, Normalisation, Strategy, Weights
from strategies.lazy import torch
from strategies.parts.several_teachers import MixtureSettings, mixed, needs_teachers
from strategies.registry import register


@register
class UniformEnsemble(Strategy[MixtureSettings]):
    """w_k = 1 / teachers. The same loss as `fixed_alpha`, whose term is the mean over teachers.

    As published.
    """

    name = "uniform_ensemble"
    family = "several teachers"
    summary = "all teachers with equal weights"
    paper = (
        "Hinton, Vinyals & Dean, arXiv 1503.02531, 2015, average an ensemble so; a baseline of Yuan et al., Reinforced "
        "Multi-Teacher Selection for Knowledge Distillation, AAAI 2021, arXiv 2012.06048"
    )
    sample_wise = False
    normalisation = Normalisation.CONVEX
    Settings = MixtureSettings

    @classmethod
    def needs(cls, settings: MixtureSettings) -> Needs:
        return needs_teachers()

    def weights(self, context: Context) -> Weights:
        teachers = len(context.teacher_logits)
        equal = torch.full((teachers, 1), 1 / teachers, device=context.teacher_logits.device)
        return mixed(equal, self.settings.kd_weight)
