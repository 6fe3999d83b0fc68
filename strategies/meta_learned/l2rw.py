"""Learning to reweight: each sample weighs what a step on it does for the meta loss."""

from __future__ import annotations

from pydantic import Field

from strategies.base import Context, Cost, Needs, Normalisation, Strategy, Weights
from strategies.lazy import torch
from strategies.parts.look_ahead_settings import LookAheadSettings
from strategies.parts.mixture import as_term_weights, mixture
from strategies.registry import register
from strategies.space import FloatRange


class L2rwSettings(LookAheadSettings):
    kd_weight: float = Field(0.5, ge=0.0, le=1.0)
    """Mixing weight of the KD term within each sample's loss."""
    meta_kd_weight: float = Field(0.0, ge=0.0)
    """Weight of the KD term in the meta loss."""

    search_space = {"kd_weight": FloatRange(low=0.05, high=0.95)}


@register
class L2rw(Strategy[L2rwSettings]):
    """l_i = (1 - kd_weight) ce_i + kd_weight kd_i has the weight batch * u_i / sum u, u_i = max(<grad L_meta, grad l_i>, 0).

    Where no sample helps, all weights are 0, as in the paper, whose SGD then stays; AdamW's moments and decay still move the
    student.

    Differs: a sample's loss is its mixture with KD, because the paper has labels alone; the student steps with AdamW and not
    SGD, because all students here do (`look_ahead: adamw` looks ahead of that step).
    """

    name = "l2rw"
    family = "meta-learned"
    summary = "samples weighed by their influence on the meta loss, from scratch in every step"
    paper = "Ren et al., Learning to Reweight Examples for Robust Deep Learning, ICML 2018, arXiv 1803.09050, algorithm 1"
    sample_wise = True
    learned = True
    cost = Cost.LOOK_AHEAD
    # the mean over the batch is fixed but for the batches that no sample helps
    normalisation = Normalisation.ADDITIVE
    Settings = L2rwSettings

    @classmethod
    def needs(cls, settings: L2rwSettings) -> Needs:
        return Needs(
            teachers=(1, None),
            look_ahead=settings.engine,
            look_ahead_options={"meta_kd_weight": settings.meta_kd_weight, **settings.step_options},
        )

    def weights(self, context: Context) -> Weights:
        assert context.look_ahead is not None
        even = None  # a step from zero weights
        if self.settings.look_ahead != "sgd":  # AdamW's is taken around equal ones: from zero it would be the moments' alone
            even = {"ce": 1 - self.settings.kd_weight, "kd": self.settings.kd_weight}
        helps = mixture(context.look_ahead(even), self.settings.kd_weight).clamp_min(0.0)
        total = helps.sum()
        weight = len(helps) * helps / total if total > 0 else torch.zeros_like(helps)
        return as_term_weights(weight, self.settings.kd_weight)
