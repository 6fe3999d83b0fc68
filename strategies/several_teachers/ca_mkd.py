"""CA-MKD: a teacher's weight falls with its cross-entropy on the sample."""

from __future__ import annotations

from strategies.base import Context, Needs, Weights
from strategies.parts.several_teachers import (
    PaperScaled,
    PaperScaleSettings,
    complement,
    context_cross_entropy,
    needs_teachers,
    scaled,
)
from strategies.registry import register


@register
class CAMKD(PaperScaled[PaperScaleSettings]):
    """w[k, i] = (1 - softmax_k(ce_k,i)) / (teachers - 1), ce_k,i the cross-entropy of teacher k with the label.

    At `paper_scale` a sample's weights sum to 1 / teachers, as the authors' code divides by their number once more.

    Differs: without the term on intermediate features, because strategies among teachers weigh their outputs alone; weights sum
    to 1 unless `paper_scale`, because all are compared at one scale.

    Claims: kd_each rises with teacher agreement.
    """

    name = "ca_mkd"
    family = "several teachers"
    summary = "more weight for teachers with low cross-entropy on the sample"
    paper = "Zhang, Chen & Wang, Confidence-Aware Multi-Teacher KD, ICASSP 2022, arXiv 2201.00007"
    sample_wise = True
    reconstruction = "Without the paper's term on intermediate features, which the same weights share."
    Settings = PaperScaleSettings

    @classmethod
    def needs(cls, settings: PaperScaleSettings) -> Needs:
        return needs_teachers()

    def weights(self, context: Context) -> Weights:
        shares = context_cross_entropy(context).softmax(0)
        return scaled(complement(shares), self.settings, paper_sum=1 / len(shares))
