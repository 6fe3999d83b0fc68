"""ToDi: forward and reverse KL, mixed for each class."""

from __future__ import annotations

from pydantic import Field

from strategies.base import Context, Needs, Normalisation, Settings, Strategy, Weights
from strategies.registry import register
from strategies.space import FloatRange


class TodiSettings(Settings):
    kd_weight: float = Field(0.5, ge=0.0, le=1.0)
    """Weight of the divergence; cross-entropy gets the rest."""

    search_space = {"kd_weight": FloatRange(low=0.1, high=1.0)}


@register
class Todi(Strategy[TodiSettings]):
    """L = mean_i [(1 - kd_weight) ce_i + kd_weight todi_i], todi the term `todi_kl`, whose weights of classes are ToDi's.

    The authors' scripts have kd_weight 0.5 and T = 2, without T^2.

    Near agreement its gradient is 3/2 of forward KL's. With two classes it has forward KL's direction everywhere, as that of
    any divergence: ToDi is then plain KD with other strengths of samples.

    Differs: T^2, because all divergences here have it: the authors' 0.5 at T = 2 is 0.125 of ours, beside 0.5 of cross-
    entropy. Samples stand for a language model's tokens.
    """

    name = "todi"
    family = "divergences"
    summary = "forward KL where the teacher holds a class more probable, reverse KL where the student does"
    paper = (
        "Jung et al., ToDi: Token-wise Distillation via Fine-Grained Divergence Control, EMNLP 2025, arXiv 2505.16297, and the "
        "authors' code"
    )
    sample_wise = False
    normalisation = Normalisation.CONVEX
    Settings = TodiSettings

    @classmethod
    def needs(cls, settings: TodiSettings) -> Needs:
        return Needs(terms=("ce", "todi_kl"), teachers=(1, None))

    def weights(self, context: Context) -> Weights:
        return {"ce": 1 - self.settings.kd_weight, "todi_kl": self.settings.kd_weight}
