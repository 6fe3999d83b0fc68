"""Dynamic KD's uncertainty weight: distil logits where the student is certain."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from strategies.base import Context, Normalisation, Settings, Strategy, Weights
from strategies.parts.probabilities import relative_entropy, student_probabilities
from strategies.registry import register
from strategies.space import FloatRange


class StudentUncertaintySettings(Settings):
    kd_weight: float = Field(1.0, ge=0.0)
    """Factor of the KD term."""
    more_kd_when: Literal["certain", "uncertain"] = "certain"
    """certain: the weight is 1 - H / log classes, as in the authors' experiments. uncertain: H / log classes."""

    search_space = {"kd_weight": FloatRange(low=0.25, high=4.0, log=True)}


@register
class StudentUncertainty(Strategy[StudentUncertaintySettings]):
    """L = mean_i [ce_i + kd_weight (1 - u_i) kd_i], u_i = H(p_S,i) / log classes, entropy at temperature 1.

    The paper's dynamic objective has a further loss on hidden states with weight u_i: a student that is uncertain shall learn
    from those, one that is certain from the teacher's logits (`models/student.py` of lancopku/DynamicKD, strategy
    `uncertainty`, which `scripts/objective.sh` runs; the other direction is its `uncertainty-r`).

    Differs: without the loss on hidden states, and with the KL divergence in the place of a squared error on logits, because
    all strategies weigh the same terms.

    Claims: kd rises with student confidence.
    """

    name = "student_uncertainty"
    family = "sample-wise heuristic"
    summary = "more KD where the student's entropy is low"
    paper = "Li et al., Dynamic Knowledge Distillation for Pre-trained Language Models, EMNLP 2021, arXiv 2109.11295"
    sample_wise = True
    normalisation = Normalisation.ADDITIVE
    reconstruction = (
        "Without the loss on hidden states. The authors' code distils by squared error on logits unless told otherwise; here "
        "it is the KL divergence of all strategies."
    )
    Settings = StudentUncertaintySettings

    def weights(self, context: Context) -> Weights:
        uncertainty = relative_entropy(student_probabilities(context))
        share = 1 - uncertainty if self.settings.more_kd_when == "certain" else uncertainty
        return {"ce": 1.0, "kd": self.settings.kd_weight * share}
