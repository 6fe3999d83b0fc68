"""KD from a teacher with its dropout on to a student whose input lacks words (noisy self-distillation)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from harness.data.output_names import dropout_draws
from harness.loss_terms.base import LossTerm, TermNeeds, TermOptions
from harness.loss_terms.registry import register_term
from strategies.lazy import torch

if TYPE_CHECKING:
    from harness.loss_terms.logit_terms import TermInputs


class NoisyKdOptions(TermOptions):
    dropout: float = Field(0.15, gt=0.0, lt=1.0)
    """The teacher's dropout probability, of every dropout layer, while its outputs are made."""
    draws: int = Field(4, ge=1, le=100)
    """Cached outputs of the teacher for each row, each with new dropout; epoch e uses number e modulo `draws`."""
    word_drop: float = Field(0.1, ge=0.0, lt=1.0)
    """Share of the words left out of the student's training inputs."""
    temperature: float = Field(1.0, gt=0.0)
    """T of both softened distributions; the paper's is 1."""
    same_architecture: bool = True
    """Refuse teachers of another architecture than the student's."""


@register_term
class NoisyKd(LossTerm[NoisyKdOptions]):
    """T^2 KL( p_T(x; dropout) || p_S(x without some words) ), the mean over teachers.

    A row is met once an epoch, so with at least as many cached draws as epochs the student sees exactly what a live teacher
    would give: a new draw each time.
    """

    name = "noisy_kd"
    summary = "KD from a teacher with dropout on; words are dropped from the student's inputs"
    Options = NoisyKdOptions

    @classmethod
    def needs(cls, options: NoisyKdOptions) -> TermNeeds:
        return TermNeeds(
            teacher_outputs=(dropout_draws(options.dropout, options.draws),),
            word_drop=options.word_drop,
            same_architecture=options.same_architecture,
        )

    def __call__(self, inputs: TermInputs) -> torch.Tensor:
        from harness.loss_terms.losses import kd_each

        assert inputs.batch is not None
        drawn = inputs.batch.teacher_outputs[dropout_draws(self.options.dropout, self.options.draws)]
        teachers = torch.stack([one[:, inputs.batch.epoch % self.options.draws] for one in drawn])
        return kd_each(inputs.student_logits, teachers, self.options.temperature).mean(0)
