"""LGTM's distillation influence as a weight: a sample is distilled as far as that helps the student on held-out rows."""

from __future__ import annotations

from pydantic import Field

from strategies.base import Context, Cost, LookAheadStep, Needs, Normalisation, Strategy, Weights
from strategies.lazy import torch
from strategies.parts.look_ahead_settings import LookAheadSettings
from strategies.registry import register
from strategies.space import FloatRange


class LgtmSettings(LookAheadSettings):
    kd_weight: float = Field(1.0, gt=0.0, le=1.0)
    """Mean weight of KD over the batch; cross-entropy gets the rest. 1: the authors' `--alpha_kd`, distillation alone."""
    look_ahead: LookAheadStep = "adamw_point"
    """The student's step that is looked ahead of. adamw_point: the authors' way, the step of its AdamW, and the influences of
    where it ends. adamw: the influences are led back through that step, too. sgd: a plain gradient step."""

    search_space = {"kd_weight": FloatRange(low=0.05, high=1.0)}


@register
class Lgtm(Strategy[LgtmSettings]):
    """w_kd,i = kd_weight * batch * u_i / sum u, u_i = max(<grad L_meta(theta'), grad kd_i>, 0); w_ce = 1 - kd_weight.

    theta' is the student after the step that its AdamW takes on plain KD with equal weights, and L_meta cross-entropy:
    `_compute_unrolled_model` and `_hessian_vector_product` (there a central difference, as the engine `fd` is here) in
    utils_glue.py of twinkle0331/LGTM. Where no sample helps, all have the same weight.

    Differs: the teacher is fixed and the influence weighs the student's own KD, because teachers' outputs are cached and the
    same for all strategies; theirs is the weight of a sample in the teacher's loss, with its sign. Negative influences count
    as 0 and the rest has a mean of kd_weight, because a student is not to be driven away from its teacher. The held-out rows
    are of train, because theirs are the validation rows that are scored.
    """

    name = "lgtm"
    family = "meta-learned"
    summary = "KD weighed by what distilling the sample does for the meta loss after the optimiser's real step"
    paper = (
        "Ren et al., Tailoring Instructions to Student's Learning Levels Boosts Knowledge Distillation, ACL 2023, "
        "arXiv 2305.09651, and the authors' code"
    )
    sample_wise = True
    learned = True
    cost = Cost.LOOK_AHEAD
    normalisation = Normalisation.BATCH
    reconstruction = (
        "A transfer: LGTM teaches the teacher. Here the teacher is fixed, and the influence that weighs samples in the "
        "teacher's loss weighs them in the student's: its positive part, over the batch's mean."
    )
    Settings = LgtmSettings

    @classmethod
    def needs(cls, settings: LgtmSettings) -> Needs:
        return Needs(teachers=(1, None), look_ahead=settings.engine, look_ahead_options=settings.step_options)

    def weights(self, context: Context) -> Weights:
        assert context.look_ahead is not None
        kd_weight = self.settings.kd_weight
        helps = context.look_ahead({"ce": 1 - kd_weight, "kd": kd_weight})["kd"].clamp_min(0.0)
        total = helps.sum()
        share = len(helps) * helps / total if total > 0 else torch.ones_like(helps)
        return {"ce": torch.full_like(share, 1 - kd_weight), "kd": kd_weight * share}
