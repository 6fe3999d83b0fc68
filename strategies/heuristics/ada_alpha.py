"""Mixing weight from the teacher's margin on the label."""

from __future__ import annotations

from pydantic import Field

from strategies.base import Context, Normalisation, Settings, Strategy, Weights
from strategies.parts.probabilities import label_probability, teacher_probabilities
from strategies.registry import register
from strategies.space import FloatRange


class AdaAlphaSettings(Settings):
    margin_temperature: float = Field(1.0, gt=0.0)
    """Temperature of the teacher's probabilities in the margin."""

    search_space = {"margin_temperature": FloatRange(low=1.0, high=5.0)}


@register
class AdaAlpha(Strategy[AdaAlphaSettings]):
    """w_kd,i = max(0, p_T(label) - mean of p_T over the other classes), w_ce,i = 1 - w_kd,i.

    Differs: a weight a sample from the teacher's probabilities in the place of one a class from held-out reliability, because
    the later paper's baseline, which is compared with, has it so.

    Claims: kd rises with teacher agreement.
    """

    name = "ada_alpha"
    family = "sample-wise heuristic"
    summary = "more KD where the teacher is sure of the label"
    paper = (
        "Lukasik et al., Teacher's pet: understanding and mitigating biases in distillation, TMLR 2022, arXiv 2106.10494, as "
        "used by Hu et al. (TGeo-KD), ICLR 2024"
    )
    sample_wise = True
    normalisation = Normalisation.CONVEX
    reconstruction = (
        "The sample-wise form of a later paper's baseline; the original mixes per class, from held-out reliability."
    )
    Settings = AdaAlphaSettings

    def weights(self, context: Context) -> Weights:
        label = label_probability(teacher_probabilities(context, self.settings.margin_temperature), context.labels)
        kd = (label - (1 - label) / (context.classes - 1)).clamp(0.0, 1.0)
        return {"ce": 1 - kd, "kd": kd}
