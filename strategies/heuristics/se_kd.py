"""SE-KD: distil where the student is most uncertain, and nowhere else."""

from __future__ import annotations

import math

from pydantic import Field

from strategies.base import Context, Normalisation, Settings, Strategy, Weights
from strategies.parts.probabilities import entropy, student_probabilities
from strategies.parts.rounding import highest
from strategies.registry import register
from strategies.space import FloatRange


class SeKdSettings(Settings):
    kd_weight: float = Field(1.0, ge=0.0, le=1.0)
    """Weight of the mean KD of the selected samples; the mean cross-entropy of all samples gets the rest."""
    selected_share: float = Field(0.2, gt=0.0, le=1.0)
    """Share of a batch that is selected, rounded up."""

    search_space = {"kd_weight": FloatRange(low=0.3, high=1.0), "selected_share": FloatRange(low=0.1, high=0.9)}


@register
class SeKd(Strategy[SeKdSettings]):
    """L = (1 - kd_weight) mean_i ce_i + kd_weight mean_{i in S} kd_i, S: the samples of highest student entropy.

    |S| = ceil(selected_share B), and all that tie with the last of them. The authors' runs have 20 %, and no labels
    (`--k_percent 20 --topk_tok_selection_metric student_entropy --alpha_ce 0.0` in almogtavor/SE-KD3x).

    Differs: the form for classification is ours: that the samples of a batch stand for the positions of a text, because a
    sample has one output here; and in that ties are all in, because order in a batch means nothing.
    """

    name = "se_kd"
    family = "sample-wise heuristic"
    summary = "KD on the share of the batch on which the student's entropy is highest"
    paper = "Tavor et al., Rethinking Selective Knowledge Distillation, 2026, arXiv 2602.01395, and the authors' code"
    sample_wise = True
    normalisation = Normalisation.BATCH
    Settings = SeKdSettings

    def weights(self, context: Context) -> Weights:
        uncertainty = entropy(student_probabilities(context))
        count = math.ceil(self.settings.selected_share * len(uncertainty))
        selected = highest(uncertainty, count).float()
        return {"ce": 1 - self.settings.kd_weight, "kd": self.settings.kd_weight * selected / selected.mean()}
