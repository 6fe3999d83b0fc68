"""Learn from the teacher where it is sure, from the labels elsewhere."""

from __future__ import annotations

from pydantic import Field

from strategies.base import Context, Normalisation, Settings, Setup, Strategy, Weights
from strategies.parts.probabilities import teacher_probabilities
from strategies.registry import register
from strategies.space import FloatRange


class LudSettings(Settings):
    quantile: float = Field(0.5, ge=0.0, le=1.0)
    """The teacher counts as sure where its largest probability is above this quantile of it over the training rows; 0.5 is
    the median."""

    search_space = {"quantile": FloatRange(low=0.1, high=0.9)}


@register
class Lud(Strategy[LudSettings]):
    """w_kd,i = 1 where max p_T,i > median over the training rows of max p_T, else 0; w_ce,i = 1 - w_kd,i.

    Differs: samples are routed by the median of the teacher's confidence, because Selective-KD's code, which compares with the
    paper, has it so; the paper weighs classes, and has correlation losses and a dynamic temperature beside.

    Claims: kd rises with teacher confidence.
    """

    name = "lud"
    family = "sample-wise heuristic"
    summary = "hard routing: KD for the half of samples that the teacher is surest of, labels for the rest"
    paper = (
        "Guo et al., Leveraging Logit Uncertainty for Better Knowledge Distillation, Scientific Reports 2024, as in "
        "Selective-KD's code"
    )
    sample_wise = True
    normalisation = Normalisation.CONVEX
    reconstruction = (
        "The rule is that of ugkd/methods/lud.py in Selective-KD/Selective-KD, which cites eq. 6. The paper itself weighs "
        "classes by a mask of the teacher's confidence, and has losses of rank correlation and a dynamic temperature beside it."
    )
    Settings = LudSettings

    def __init__(self, settings: LudSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        surest = setup.fit.teacher_logits.softmax(-1).mean(0).max(-1).values
        # sorted by hand: torch.quantile takes no more than 16 million values
        self.threshold = float(surest.sort().values[round(settings.quantile * (len(surest) - 1))])

    def weights(self, context: Context) -> Weights:
        kd = (teacher_probabilities(context).max(-1).values > self.threshold).float()
        return {"ce": 1 - kd, "kd": kd}
