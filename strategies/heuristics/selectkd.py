"""SelecTKD: the student proposes, the teacher verifies; what is rejected hardly counts."""

from __future__ import annotations

from pydantic import Field

from strategies.base import Context, Normalisation, Settings, Strategy, Weights
from strategies.parts.probabilities import teacher_probabilities
from strategies.registry import register
from strategies.space import FloatRange


class SelecTkdSettings(Settings):
    kd_weight: float = Field(0.5, ge=0.0, le=1.0)
    """Weight of KD on accepted samples; cross-entropy gets the rest, on all samples."""
    top_k: int = Field(1, ge=1)
    """The teacher accepts the student's most probable class if it is among its own so many most probable ones."""
    rejected_weight: float = Field(0.01, ge=0.0, le=1.0)
    """Weight of KD on rejected samples, in that of accepted ones (beta in the paper)."""

    search_space = {
        "kd_weight": FloatRange(low=0.1, high=1.0),
        "rejected_weight": FloatRange(low=0.001, high=0.5, log=True),
    }


@register
class SelecTkd(Strategy[SelecTkdSettings]):
    """L = mean_i [(1 - kd_weight) ce_i + kd_weight v_i kd_i], v_i = 1 where the teacher accepts, else rejected_weight.

    Accepted: argmax q_i is among the teacher's top_k classes (the paper's greedy Top-k).

    Differs: the form for classification is ours: top_k, 1 and not 5, because tasks have few classes; in cross-entropy,
    because there are labels; and in that Spec-k, which verifies several sampled candidates, is left out.
    """

    name = "selectkd"
    family = "sample-wise heuristic"
    summary = "KD where the teacher agrees with the student's choice, little of it elsewhere"
    paper = "Huang et al., SelecTKD: Selective Token-Weighted Knowledge Distillation for LLMs, CVPR 2026, arXiv 2510.24021"
    sample_wise = True
    normalisation = Normalisation.ADDITIVE
    reconstruction = "Its abstract and others' descriptions were read, not the whole paper; the authors have no code."
    Settings = SelecTkdSettings

    @classmethod
    def refuses(cls, settings: SelecTkdSettings, classes: int) -> str | None:
        if settings.top_k < classes:
            return None
        return (
            f"selectkd: the teacher's top {settings.top_k} of {classes} classes accept every sample, which is plain KD. "
            f"Set top_k below {classes}"
        )

    def weights(self, context: Context) -> Weights:
        teacher = teacher_probabilities(context)
        proposed = teacher.gather(-1, context.student_logits.argmax(-1, keepdim=True))
        accepted = (teacher > proposed).sum(-1) < self.settings.top_k
        verified = accepted + ~accepted * self.settings.rejected_weight
        return {"ce": 1 - self.settings.kd_weight, "kd": self.settings.kd_weight * verified}
