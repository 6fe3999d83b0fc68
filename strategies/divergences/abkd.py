"""ABKD: the alpha-beta divergence in the place of KL."""

from __future__ import annotations

from pydantic import Field

from strategies.base import Context, Needs, Normalisation, Settings, Strategy, Weights
from strategies.registry import register
from strategies.space import FloatRange


class AbkdSettings(Settings):
    ce_weight: float = Field(1.0, ge=0.0)
    """Weight of cross-entropy."""
    kd_weight: float = Field(2.0, ge=0.0)
    """Weight of the divergence with T^2: the authors' 32 at T = 4, without T^2."""
    alpha: float = Field(0.8, ge=0.0)
    """The teacher's exponent."""
    beta: float = Field(0.3, ge=0.0)
    """The student's exponent."""

    search_space = {
        "kd_weight": FloatRange(low=0.5, high=8.0, log=True),
        "alpha": FloatRange(low=0.2, high=1.2),
        "beta": FloatRange(low=0.1, high=0.8),
    }


@register
class Abkd(Strategy[AbkdSettings]):
    """L = mean_i [ce_weight ce_i + kd_weight D^(alpha, beta)_i], D the term `alpha_beta`, with T^2.

    Defaults: the README's example for CIFAR-100 (resnet56 to resnet20) in ghwang-s/abkd, alpha + beta = 1.1 and alpha = 0.8;
    for language models the scripts have 0.2 and 0.7. `start_alpha_beta` and `end_alpha_beta` of those scripts are the ends of
    a search, not a schedule: exponents stay as they are for a training.

    As published, with T^2 taken out of the weight; the authors choose alpha, beta and the weight for each pair of models.
    """

    name = "abkd"
    family = "divergences"
    summary = "alpha-beta divergence, between and beyond forward and reverse KL"
    paper = (
        "Wang et al., ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via "
        "alpha-beta-Divergence, ICML 2025, arXiv 2505.04560, and the authors' code"
    )
    sample_wise = False
    normalisation = Normalisation.ADDITIVE
    Settings = AbkdSettings

    @classmethod
    def needs(cls, settings: AbkdSettings) -> Needs:
        options = {"alpha": settings.alpha, "beta": settings.beta}
        return Needs(terms=("ce", "alpha_beta"), teachers=(1, None), term_options={"alpha_beta": options})

    def weights(self, context: Context) -> Weights:
        return {"ce": self.settings.ce_weight, "alpha_beta": self.settings.kd_weight}
