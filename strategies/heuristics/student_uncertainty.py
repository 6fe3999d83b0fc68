"""Dynamic KD's uncertainty weight: distil where the student is uncertain."""

from __future__ import annotations

from pydantic import Field

from strategies.base import Context, Normalisation, Settings, Strategy, Weights
from strategies.parts.probabilities import relative_entropy, student_probabilities
from strategies.registry import register
from strategies.space import FloatRange


class StudentUncertaintySettings(Settings):
    kd_weight: float = Field(1.0, ge=0.0)
    """Factor of the KD term."""

    search_space = {"kd_weight": FloatRange(low=0.25, high=4.0, log=True)}


@register
class StudentUncertainty(Strategy[StudentUncertaintySettings]):
    """L = mean_i [ce_i + kd_weight * H(p_S,i) / log classes * kd_i], entropy at temperature 1."""

    name = "student_uncertainty"
    family = "sample-wise heuristic"
    summary = "more KD where the student's entropy is high"
    paper = "Li et al., Dynamic Knowledge Distillation for Pre-trained Language Models, EMNLP 2021"
    sample_wise = True
    normalisation = Normalisation.ADDITIVE
    Settings = StudentUncertaintySettings

    def weights(self, context: Context) -> Weights:
        return {"ce": 1.0, "kd": self.settings.kd_weight * relative_entropy(student_probabilities(context))}
