"""One teacher for each sample, drawn at random."""

from __future__ import annotations

from strategies.base import Context, Needs, Normalisation, Strategy, Weights
from strategies.lazy import torch
from strategies.parts.several_teachers import MixtureSettings, mixed, needs_teachers
from strategies.registry import register


@register
class RandomSingle(Strategy[MixtureSettings]):
    """w[k, i] = 1 for one k, drawn for every sample and step with equal probabilities: selection without a reason.

    Differs: how far is not known, because the paper's part on baselines could not be read.
    """

    name = "random_single"
    family = "several teachers"
    summary = "one teacher per sample, drawn at random in each step"
    paper = (
        "control; said to be a baseline of Yuan et al., Reinforced Multi-Teacher Selection for Knowledge "
        "Distillation, AAAI 2021, arXiv 2012.06048"
    )
    sample_wise = True
    normalisation = Normalisation.CONVEX
    reconstruction = (
        "The paper's part on baselines could not be read: neither its name for this one nor whether it draws per sample, batch "
        "or training; here per sample and step."
    )
    Settings = MixtureSettings

    @classmethod
    def needs(cls, settings: MixtureSettings) -> Needs:
        return needs_teachers()

    def weights(self, context: Context) -> Weights:
        teachers, batch = context.teacher_logits.shape[:2]
        drawn = torch.randint(teachers, (batch,), generator=context.generator).to(context.teacher_logits.device)
        chosen = torch.nn.functional.one_hot(drawn, teachers).T.float()
        return mixed(chosen, self.settings.kd_weight)
