"""KD between the similarities of the samples of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from harness.data.output_names import FEATURES
from harness.loss_terms.base import LossTerm, TermNeeds, TermOptions
from harness.loss_terms.registry import register_term
from strategies.lazy import torch

if TYPE_CHECKING:
    from harness.loss_terms.logit_terms import TermInputs


class RelationalKdOptions(TermOptions):
    temperature: float = Field(0.1, gt=0.0)
    """Of the student's similarities."""
    teacher_sharpening: float = Field(0.25, gt=0.0)
    """The teacher's temperature, in those of the student."""
    cosine: bool = True
    """Similarity is the cosine; false: the inner product, as in the paper, which saturates for vectors of a classifier."""


@register_term
class RelationalKd(LossTerm[RelationalKdOptions]):
    """KL( R_T,i || R_S,i ), R_i = softmax over the other samples j of the global batch of sim(f_i, f_j) / temperature.

    f are the pooled vectors; the mean over teachers. 0 in a batch of fewer than three.
    """

    name = "relational_kd"
    summary = "KD between each sample's similarities to the other samples of the batch"
    Options = RelationalKdOptions

    @classmethod
    def needs(cls, options: RelationalKdOptions) -> TermNeeds:
        return TermNeeds(student_features=True, teacher_outputs=(FEATURES,), whole_batch=True, bypasses_head=True)

    def __call__(self, inputs: TermInputs) -> torch.Tensor:
        assert inputs.student_features is not None
        assert inputs.teacher_features is not None
        options, ranks = self.options, inputs.ranks
        features = ranks.gather_with_gradient(inputs.student_features.float())
        student = self._relations(features, inputs.own_rows, options.temperature)
        sharp = options.temperature * options.teacher_sharpening
        values = []
        for own in inputs.teacher_features:
            teacher = self._relations(ranks.gather_rows(own), inputs.own_rows, sharp)
            values.append(torch.nn.functional.kl_div(student, teacher, reduction="none", log_target=True).sum(-1))
        return torch.stack(values).mean(0)

    def _relations(self, features: torch.Tensor, own_rows: slice, temperature: float) -> torch.Tensor:
        """Logarithms of R, [own rows, batch - 1]: each row without the sample itself."""
        if self.options.cosine:
            features = torch.nn.functional.normalize(features, dim=-1)
        batch = len(features)
        own = torch.arange(batch, device=features.device)[own_rows]
        others = torch.arange(batch - 1, device=features.device)
        columns = others + (others >= own.unsqueeze(-1))
        similar = (features[own_rows] @ features.T).gather(1, columns)
        return (similar / temperature).log_softmax(-1)
