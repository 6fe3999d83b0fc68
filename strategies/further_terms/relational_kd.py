"""Relational KD within the batch, with a sharpened teacher."""

from __future__ import annotations

from pydantic import Field

from strategies.base import Needs
from strategies.parts.fixed_weights import FixedWeights, FixedWeightSettings
from strategies.registry import register
from strategies.space import FloatRange


class RelationalKdSettings(FixedWeightSettings):
    temperature: float = Field(0.1, gt=0.0)
    """Of the student's similarities (cosines)."""
    teacher_sharpening: float = Field(0.25, gt=0.0)
    """The teacher's temperature, in those of the student."""

    search_space = {**FixedWeightSettings.search_space, "temperature": FloatRange(low=0.05, high=1.0, log=True)}


@register
class RelationalKd(FixedWeights[RelationalKdSettings]):
    """L = mean_i [ce_weight ce_i + kd_weight kd_i + term_weight KL( R_T,i || R_S,i )], R_i: relations to the batch.

    Each sample's similarities to all others of the global batch teach, as in-batch negatives do with a tightly coupled teacher.

    Differs: pooled vectors and cosines stand for queries, passages and late interaction, because this is a transfer from
    retrieval to classification; the teacher's vectors are cached, because it has no dropout in the step.
    """

    name = "relational_kd"
    family = "further terms"
    summary = "CE, KD and KD between each sample's similarities to the rest of the batch"
    paper = (
        "Lin, Yang & Lin, In-Batch Negatives for Knowledge Distillation with Tightly-Coupled Teachers for Dense Retrieval, "
        "RepL4NLP 2021 (TCT-ColBERT)"
    )
    reconstruction = (
        "A transfer from retrieval to classification: pooled vectors stand for queries and passages, cosines for ColBERT's "
        "late-interaction scores. From the authors' code: the teacher's scores divided by 0.25. The teacher's vectors are "
        "cached: without dropout they are what a coupled teacher would compute in the step."
    )
    Settings = RelationalKdSettings
    term = "relational_kd"

    @classmethod
    def needs(cls, settings: RelationalKdSettings) -> Needs:
        options = {"temperature": settings.temperature, "teacher_sharpening": settings.teacher_sharpening}
        return Needs(terms=("ce", "kd", "relational_kd"), teachers=(1, None), term_options={"relational_kd": options})
