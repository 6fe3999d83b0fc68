"""KD between standardised logits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from strategies.base import Context, Needs, Normalisation, Settings, Strategy, Weights
from strategies.registry import register
from strategies.space import FloatRange


class LogitStandardisationSettings(Settings):
    ce_weight: float = Field(0.1, ge=0.0)
    """Weight of cross-entropy."""
    kd_weight: float = Field(9.0, ge=0.0)
    """Weight of the KD term on standardised logits."""
    two_classes: Literal["refuse", "allow"] = "refuse"
    """With two classes a standardised pair of logits is always the same two numbers: the KD term has no gradient."""

    search_space = {
        "ce_weight": FloatRange(low=0.05, high=1.0, log=True),
        "kd_weight": FloatRange(low=0.5, high=10.0, log=True),
    }


@register
class LogitStandardisation(Strategy[LogitStandardisationSettings]):
    """L = mean_i [ce_weight ce_i + kd_weight kd(z(s_i), z(t_i))], z = (logits - mean) / standard deviation over classes.

    Differs: default weights are those of a third party's code, because the authors' go with each pair of models.
    """

    name = "logit_standardisation"
    family = "temperature side"
    summary = "KD on z-scored logits: the student need not match the teacher's scale"
    paper = "Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024, arXiv 2403.01427"
    sample_wise = False
    normalisation = Normalisation.ADDITIVE
    reconstruction = "Default weights from a third party's code."
    Settings = LogitStandardisationSettings

    @classmethod
    def refuses(cls, settings: LogitStandardisationSettings, classes: int) -> str | None:
        if classes > 2 or settings.two_classes == "allow":
            return None
        return (
            "logit_standardisation: two logits, standardised, are always the same pair of numbers, so its KD term has no "
            "gradient with two classes. Leave it out for this task, or set two_classes: allow to run it all the same"
        )

    @classmethod
    def needs(cls, settings: LogitStandardisationSettings) -> Needs:
        return Needs(terms=("ce", "standardised_kd"), teachers=(1, None))

    def weights(self, context: Context) -> Weights:
        return {"ce": self.settings.ce_weight, "standardised_kd": self.settings.kd_weight}
