"""EBKD: a teacher's weight falls with its entropy."""

from __future__ import annotations

from pydantic import Field

from strategies.base import Context, Needs, Weights
from strategies.lazy import torch
from strategies.parts.probabilities import entropy
from strategies.parts.several_teachers import PaperScaled, PaperScaleSettings, complement, needs_teachers, scaled
from strategies.registry import register
from strategies.space import FloatRange


class EBKDSettings(PaperScaleSettings):
    entropy_temperature: float = Field(1.0, gt=0.0)
    """Temperature of the teachers' probabilities in the entropy. Teachers that fit their training set are certain of nearly
    all samples at 1."""

    search_space = {**PaperScaleSettings.search_space, "entropy_temperature": FloatRange(low=1.0, high=5.0)}


@register
class EBKD(PaperScaled[EBKDSettings]):
    """w[k, i] = (1 - H(p_k,i) / sum_j H(p_j,i)) / (teachers - 1); equal weights where all entropies are 0.

    At `paper_scale` a sample's weights sum to (teachers - 1) / teachers.

    Differs: read in CA-MKD's code, because the paper was not at hand; weights sum to 1 unless `paper_scale`, because all are
    compared at one scale.

    Claims: kd_each rises with teacher confidence.
    """

    name = "ebkd"
    family = "several teachers"
    summary = "more weight for teachers with low entropy on the sample"
    paper = "Kwon et al., Adaptive Knowledge Distillation Based on Entropy, ICASSP 2020, as in CA-MKD's code"
    sample_wise = True
    reconstruction = "Read in the code of CA-MKD (Zhang et al., ICASSP 2022), which compares with it, not in the paper itself."
    Settings = EBKDSettings

    @classmethod
    def needs(cls, settings: EBKDSettings) -> Needs:
        return needs_teachers()

    def weights(self, context: Context) -> Weights:
        uncertainty = entropy((context.teacher_logits / self.settings.entropy_temperature).softmax(-1))
        teachers = len(uncertainty)
        total = uncertainty.sum(0)
        equal = torch.full_like(uncertainty, 1 / teachers)
        shares = torch.where(total > 0, uncertainty / total.clamp_min(torch.finfo(total.dtype).tiny), equal)
        return scaled(complement(shares), self.settings, paper_sum=(teachers - 1) / teachers)
