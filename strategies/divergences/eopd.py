"""EOPD: reverse KL, and forward KL beside it where the teacher is unsure."""

from __future__ import annotations

from pydantic import Field

from strategies.base import Context, Needs, Normalisation, Settings, Strategy, Weights
from strategies.parts.probabilities import relative_entropy, teacher_probabilities
from strategies.registry import register
from strategies.space import FloatRange


class EopdSettings(Settings):
    ce_weight: float = Field(0.5, ge=0.0)
    """Weight of cross-entropy."""
    kd_weight: float = Field(0.5, ge=0.0)
    """Weight of reverse KL, on all samples."""
    forward_weight: float = Field(1.0, ge=0.0)
    """Weight of forward KL on the samples that pass, in units of `kd_weight`."""
    entropy_share: float = Field(0.5, ge=0.0, le=1.0)
    """A sample passes where the teacher's entropy at temperature 1 is at least this share of log(classes)."""

    search_space = {"kd_weight": FloatRange(low=0.1, high=1.0), "entropy_share": FloatRange(low=0.1, high=0.9)}


@register
class Eopd(Strategy[EopdSettings]):
    """L = mean_i [ce_weight ce_i + kd_weight (KL(q_i || p_i) + forward_weight u_i KL(p_i || q_i))].

    p and q: teacher and student; u_i = 1[H(p_i) >= entropy_share log K], K classes; both divergences with T^2. Forward KL comes
    on top of reverse KL, not in its place: so does the authors' `compute_policy_loss_on_policy_distill`, read in the copy of
    ckjsuperhh/CacheEOPD (threshold 0.8 nats, coefficient 1).

    Differs: the form for classification is ours: training rows, the exact divergence, T, T^2 and cross-entropy, because the
    authors sample text from the student (a policy gradient) and have no labels; and in a threshold that is a share of the
    largest entropy, its default ours, because their 0.8 nats is more than two classes can have.
    """

    name = "eopd"
    family = "divergences"
    summary = "reverse KL, with forward KL on top where the teacher's entropy is high"
    paper = "Jin et al., Entropy-Aware On-Policy Distillation of Language Models, ICML 2026, arXiv 2603.07079"
    sample_wise = True
    normalisation = Normalisation.ADDITIVE
    Settings = EopdSettings

    @classmethod
    def needs(cls, settings: EopdSettings) -> Needs:
        return Needs(terms=("ce", "reverse_kl", "kd"))

    def weights(self, context: Context) -> Weights:
        settings = self.settings
        unsure = relative_entropy(teacher_probabilities(context)) >= settings.entropy_share
        forward = settings.kd_weight * settings.forward_weight * unsure.float()
        return {"ce": settings.ce_weight, "reverse_kl": settings.kd_weight, "kd": forward}
