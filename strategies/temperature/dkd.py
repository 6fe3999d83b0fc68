"""Decoupled KD: the target class and the others apart."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from strategies.base import Context, Needs, Normalisation, Settings, Strategy, Weights
from strategies.registry import register
from strategies.space import FloatRange


class DkdSettings(Settings):
    ce_weight: float = Field(1.0, ge=0.0)
    """Weight of cross-entropy."""
    target_weight: float = Field(1.0, ge=0.0)
    """Weight of the target-class part (alpha in the paper)."""
    non_target_weight: float = Field(8.0, ge=0.0)
    """Weight of the part among the other classes (beta in the paper)."""
    warm_up_share: float = Field(20 / 240, ge=0.0, le=1.0)
    """Share of the training over which the KD part's weight rises from 0 to its whole. The authors' 20 of 240 epochs, scaled to
    the training's length. 0: no warm-up."""
    two_classes: Literal["refuse", "allow"] = "refuse"
    """With two classes the non-target part is identically 0, and what is left is `target_weight` times plain KD."""

    search_space = {
        "target_weight": FloatRange(low=0.5, high=2.0, log=True),
        "non_target_weight": FloatRange(low=0.5, high=10.0, log=True),
    }


@register
class Dkd(Strategy[DkdSettings]):
    """L = mean_i [ce_weight ce_i + r (target_weight TCKD_i + non_target_weight NCKD_i)], both parts with T^2.

    r = min(progress / warm_up_share, 1): `mdistiller/distillers/DKD.py` of megvii-research/mdistiller has min(epoch / 20, 1),
    of 240 epochs on CIFAR-100. Here it rises from step to step, as a fine-tuning has few
    epochs.
    Plain KD is TCKD_i + (1 - p_T,i(label)) NCKD_i: the second weight is what DKD frees from the teacher's confidence.

    Differs: the warm-up is a share of the training and rises from step to step, because trainings have few epochs.
    """

    name = "dkd"
    family = "temperature side"
    summary = "KD split into target class and others, each with its own weight"
    paper = "Zhao et al., Decoupled Knowledge Distillation, CVPR 2022, arXiv 2203.08679, eq. 7"
    sample_wise = False
    normalisation = Normalisation.ADDITIVE
    reconstruction = "The authors tune beta for each pair of teacher and student; 8 is their code's default."
    Settings = DkdSettings

    @classmethod
    def warm_up(cls, settings: DkdSettings, epochs: int) -> float:
        return settings.warm_up_share * epochs

    @classmethod
    def refuses(cls, settings: DkdSettings, classes: int) -> str | None:
        if classes > 2 or settings.two_classes == "allow":
            return None
        return (
            "dkd: with two classes the part among the non-target classes is identically 0, and dkd is plain KD. Leave it out "
            "for this task, or set two_classes: allow to run it all the same"
        )

    @classmethod
    def needs(cls, settings: DkdSettings) -> Needs:
        return Needs(terms=("ce", "tckd", "nckd"), teachers=(1, None))

    def weights(self, context: Context) -> Weights:
        settings = self.settings
        rise = min(context.progress / settings.warm_up_share, 1.0) if settings.warm_up_share else 1.0
        return {"ce": settings.ce_weight, "tckd": rise * settings.target_weight, "nckd": rise * settings.non_target_weight}
