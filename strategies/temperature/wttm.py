"""WTTM: a temperature for the teacher alone, and more weight where that flattens the teacher less steeply."""

from __future__ import annotations

from pydantic import Field

from strategies.base import Context, Needs, Normalisation, Settings, Strategy, TermShape, Weights
from strategies.parts.probabilities import teacher_probabilities
from strategies.registry import register
from strategies.space import FloatRange


class WttmSettings(Settings):
    ce_weight: float = Field(1.0, ge=0.0)
    """Weight of cross-entropy."""
    kd_weight: float = Field(4.0, ge=0.0)
    """Factor of the divergence (beta in the paper)."""
    exponent: float = Field(0.2, gt=0.0, le=1.0)
    """Of the power transform of the teacher's probabilities (gamma in the paper): its temperature is 1 / exponent."""

    search_space = {
        "kd_weight": FloatRange(low=0.5, high=16.0, log=True),
        "exponent": FloatRange(low=0.1, high=1.0, log=True),
    }


@register
class Wttm(Strategy[WttmSettings]):
    """L = mean_i [ce_weight ce_i + kd_weight U_i KL( p_i^g / U_i || q_i )], U_i = sum_c p_ic^g, g = exponent.

    p teacher, q student at temperature 1; no factor T^2. U_i, the power sum, is 1 where the teacher is sure and K^(1 - g) where
    it knows nothing of K classes: more weight where it is unsure (eq. 22). The term is `transformed_teacher`; the study's
    temperature is not used. Defaults: the README's example of WTTM in zkxufo/TTM, in which CRD has a weight, too.

    As published; the authors choose weight and exponent for each pair of teacher and student.
    """

    name = "wttm"
    family = "temperature side"
    summary = "KD with a teacher's temperature alone, weighted by the teacher's power sum"
    paper = (
        "Zheng & Yang, Knowledge Distillation Based on Transformed Teacher Matching, ICLR 2024, arXiv 2402.11148, and the "
        "authors' code"
    )
    sample_wise = True
    normalisation = Normalisation.ADDITIVE
    Settings = WttmSettings

    @classmethod
    def needs(cls, settings: WttmSettings) -> Needs:
        return Needs(terms=("ce", "transformed_teacher"))

    def shape_terms(self, context: Context) -> TermShape:
        return TermShape(temperature=1 / self.settings.exponent)

    def weights(self, context: Context) -> Weights:
        power_sum = (teacher_probabilities(context) ** self.settings.exponent).sum(-1)
        return {"ce": self.settings.ce_weight, "transformed_teacher": self.settings.kd_weight * power_sum}
