"""The best teacher alone: of each sample, or of the task."""

from __future__ import annotations

from typing import Literal

from strategies.base import Context, Needs, Normalisation, Setup, Strategy, Weights
from strategies.lazy import torch
from strategies.parts.several_teachers import (
    MixtureSettings,
    context_cross_entropy,
    each_accuracy,
    each_cross_entropy,
    lowest,
    mixed,
    needs_teachers,
)
from strategies.registry import register


class BestSingleSettings(MixtureSettings):
    per: Literal["sample", "task"] = "sample"
    """sample: the teacher with the lowest cross-entropy on the sample. task: the teacher with the highest accuracy on the meta
    set, ties by its mean cross-entropy there, for all samples; training then does without the meta rows."""


@register
class BestSingle(Strategy[BestSingleSettings]):
    """w[k, i] = 1 for the teacher k with the lowest cross-entropy on sample i; teachers that tie share it.

    Differs: the rule is a summary's, the teacher that is best on the instance beside its label, because the paper could not be
    read; how it measures that is ours.

    Claims: kd_each rises with teacher agreement.
    """

    name = "best_single"
    family = "several teachers"
    summary = "the teacher that is best on the sample, alone"
    paper = (
        "a baseline (one teacher) of Yuan et al., Reinforced Multi-Teacher Selection for Knowledge Distillation, AAAI 2021, "
        "arXiv 2012.06048"
    )
    sample_wise = True
    normalisation = Normalisation.CONVEX
    reconstruction = (
        "The paper's rule was read in a summary: Best-Single-Ensemble selects, for each instance, the teacher that does best "
        "beside the label. That the cross-entropy says so is ours."
    )
    Settings = BestSingleSettings

    def __init__(self, settings: BestSingleSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        if settings.per == "task":
            assert setup.meta is not None
            cross_entropy = each_cross_entropy(setup.meta.teacher_logits, setup.meta.labels).mean(-1)
            # any difference in accuracy counts more than cross-entropy, which x / (1 + x) puts below 1
            rows = len(setup.meta.labels)
            rank = -(each_accuracy(setup.meta) * rows).round() + cross_entropy / (1 + cross_entropy)
            self.best: torch.Tensor = lowest(rank).unsqueeze(-1).to(setup.device)

    @classmethod
    def needs(cls, settings: BestSingleSettings) -> Needs:
        return needs_teachers(meta_set=settings.per == "task")

    def weights(self, context: Context) -> Weights:
        best = self.best if self.settings.per == "task" else lowest(context_cross_entropy(context))
        return mixed(best, self.settings.kd_weight)
