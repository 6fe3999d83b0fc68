"""One teacher for each sample, drawn at random."""

from __future__ import annotations

from typing import Literal

from strategies.base import Context, Needs, Normalisation, Strategy, Weights
from strategies.lazy import torch
from strategies.parts.several_teachers import MixtureSettings, mixed, needs_teachers
from strategies.registry import register


class RandomSingleSettings(MixtureSettings):
    per: Literal["sample", "batch"] = "sample"
    """sample: a teacher is drawn for every sample. batch: one for all samples of a step, as in the paper's baseline
    (Rand-Single-Ensemble)."""


@register
class RandomSingle(Strategy[RandomSingleSettings]):
    """w[k, i] = 1 for one k, drawn for every sample and step with equal probabilities: selection without a reason.

    Differs: a draw is a sample's unless `per: batch`, because the strategies that it is a control of select teachers for each
    sample.
    """

    name = "random_single"
    family = "several teachers"
    summary = "one teacher per sample, drawn at random in each step"
    paper = (
        "control; per batch a baseline of Yuan et al., Reinforced Multi-Teacher Selection for Knowledge Distillation, AAAI "
        "2021, arXiv 2012.06048"
    )
    sample_wise = True
    normalisation = Normalisation.CONVEX
    reconstruction = "The paper's baselines were read in a summary: Rand-Single-Ensemble draws a teacher for each mini-batch."
    Settings = RandomSingleSettings

    @classmethod
    def needs(cls, settings: RandomSingleSettings) -> Needs:
        return needs_teachers()

    def weights(self, context: Context) -> Weights:
        teachers, batch = context.teacher_logits.shape[:2]
        draws = batch if self.settings.per == "sample" else 1
        drawn = torch.randint(teachers, (draws,), generator=context.generator).to(context.teacher_logits.device)
        chosen = torch.nn.functional.one_hot(drawn.expand(batch), teachers).T.float()
        return mixed(chosen, self.settings.kd_weight)
