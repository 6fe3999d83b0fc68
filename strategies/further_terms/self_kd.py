"""Noisy self-distillation: a teacher like the student, both with noise."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from strategies.base import Needs
from strategies.parts.fixed_weights import FixedWeights, FixedWeightSettings
from strategies.registry import register
from strategies.space import FloatRange


class SelfKdSettings(FixedWeightSettings):
    ce_weight: float = Field(0.4, ge=0.0)
    """Weight of cross-entropy, on the student's noisy input."""
    kd_weight: float = Field(0.0, ge=0.0)
    """Weight of KD from the teacher without dropout."""
    term_weight: float = Field(0.6, ge=0.0)
    """Weight of KD from the teacher with dropout on."""
    teacher_dropout: float = Field(0.15, gt=0.0, lt=1.0)
    """The teacher's dropout probability while its outputs are made."""
    draws: int = Field(4, ge=1, le=100)
    """How many such outputs are cached for each row; one an epoch, in turn. At least as many as epochs: as a live teacher."""
    word_drop: float = Field(0.1, ge=0.0, lt=1.0)
    """Share of the words left out of the student's training inputs."""
    term_temperature: float = Field(1.0, gt=0.0)
    """Temperature of the noisy KD term."""
    teacher: Literal["same_architecture", "any"] = "same_architecture"
    """any: noisy KD from a teacher that is not the student's like."""

    search_space = {
        "term_weight": FloatRange(low=0.1, high=1.0),
        "word_drop": FloatRange(low=0.02, high=0.3),
    }


@register
class SelfKd(FixedWeights[SelfKdSettings]):
    """L = mean_i [ce_weight ce_i + term_weight KL( p_T(x_i; dropout) || p_S(x_i without some words) )] with T = 1.

    The teacher has the student's architecture and was trained with cross-entropy: `architecture: student` among a study's
    teachers. Its noisy outputs are drawn and cached before training, `draws` teacher passes over the training rows, once.

    Differs: one class distribution in the place of one a token, and no noise on the order of sentences, because this is a
    transfer from summarisation.
    """

    name = "self_kd"
    family = "further terms"
    summary = "noisy self-distillation: a teacher like the student with dropout on, words dropped for the student"
    paper = "Liu, Shen & Lapata, Noisy Self-Knowledge Distillation for Text Summarization, NAACL 2021, arXiv 2009.07032"
    reconstruction = (
        "From the authors' code: the weights 0.4 and 0.6, T = 1, dropout 0.15, word drop 0.1. A transfer from summarisation: "
        "one class distribution in the place of one a token, and no noise on the order of sentences."
    )
    Settings = SelfKdSettings
    term = "noisy_kd"

    @classmethod
    def needs(cls, settings: SelfKdSettings) -> Needs:
        options = {
            "dropout": settings.teacher_dropout,
            "draws": settings.draws,
            "word_drop": settings.word_drop,
            "temperature": settings.term_temperature,
            "same_architecture": settings.teacher == "same_architecture",
        }
        return Needs(terms=("ce", "kd", "noisy_kd"), teachers=(1, None), term_options={"noisy_kd": options})
