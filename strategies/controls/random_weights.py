"""Random loss weighting: the sanity check of every weighting method."""

from __future__ import annotations

from strategies.base import Context, Needs, Normalisation, Strategy, Weights
from strategies.lazy import torch
from strategies.parts.extra_terms import TermSettings
from strategies.registry import register


@register
class RandomWeights(Strategy[TermSettings]):
    """w = softmax(z), z ~ N(0, I), drawn anew each step, one weight for each term.

    As published, with the paper's normal distribution of the logits.
    """

    name = "random_weights"
    family = "control"
    summary = "RLW: weights drawn at random in every step, the same for all samples"
    paper = "Lin et al., Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task Learning, TMLR 2022"
    sample_wise = False
    normalisation = Normalisation.CONVEX
    Settings = TermSettings

    @classmethod
    def needs(cls, settings: TermSettings) -> Needs:
        return Needs(terms=settings.terms, teachers=(1, None))

    def weights(self, context: Context) -> Weights:
        drawn = torch.randn(len(context.terms), generator=context.generator).softmax(0)
        return dict(zip(context.terms, drawn, strict=True))
