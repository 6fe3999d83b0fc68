"""AdaKD: the hardest samples alone, as many as the loss allows, each with a temperature of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from strategies.base import Context, Needs, Normalisation, Settings, Setup, Strategy, TermShape, Weights
from strategies.lazy import torch
from strategies.parts.probabilities import student_probabilities, teacher_probabilities
from strategies.parts.rounding import highest
from strategies.registry import register
from strategies.space import FloatRange

SMALLEST = 1e-8
LOWEST_SHARE = 0.1
"""Of samples that are selected; the authors' bound."""


class AdaKdSettings(Settings):
    kd_weight: float = Field(1.0, ge=0.0, le=1.0)
    """Weight of the mean divergence of the selected samples; the mean cross-entropy of all samples gets the rest."""
    divergence: Literal["kd", "reverse_kl"] = "reverse_kl"
    """Forward or reverse KL."""
    sensitivity: float = Field(0.5, ge=0.0)
    """How far temperatures go from the study's: within a factor of exp(sensitivity) (c in the paper)."""
    tolerance: float = Field(0.05, gt=0.0)
    """Relative change of the average loss at which the selected share changes (epsilon)."""
    share_step: float = Field(0.05, ge=0.0, lt=1.0)
    """Relative change of the selected share (sigma)."""
    average_span: float = Field(0.056, ge=0.0, le=1.0)
    """Steps over which the moving average of the loss reaches, as a share of the training: the authors keep 0.99 of the old
    value, which is 100 of the 1,780 steps of their script."""
    warm_up_share: float = Field(0.05, ge=0.0, lt=1.0)
    """Share of the training after which the first reference loss is taken."""

    search_space = {
        "kd_weight": FloatRange(low=0.3, high=1.0),
        "sensitivity": FloatRange(low=0.1, high=1.0),
        "share_step": FloatRange(low=0.01, high=0.2, log=True),
    }


@register
class AdaKd(Strategy[AdaKdSettings]):
    """L = (1 - kd_weight) mean_i ce_i + kd_weight mean_{i in S} T_i^2 D_i(T_i), S: the share r of samples of largest h_i.

    h_i is the Hellinger distance of teacher and student, sqrt(sum_c (sqrt q_c - sqrt p_c)^2 / 2), at the study's temperature T.
    T_i = T exp(-sensitivity tanh(log(h_i / median of S))): low for hard samples. r starts at 1; where the moving average of the
    loss has fallen by more than `tolerance` of a reference, r becomes (1 - share_step) r, at least 0.1; where it has risen by
    as much, (1 + share_step) r, at most 1; the average is then the new reference.

    Differs: samples of the global batch stand for tokens, because a classifier has one output; ties are all in; the
    moving average is scaled to the training's length, because fine-tunings here have fewer steps; and in that a median of
    0 counts as 1e-8, because theirs divides by it. Settings are those of scripts/gpt2/AdaKD/AdaKD.sh in SassyRong/AdaKD
    (temperature 1, no labels).
    """

    name = "adakd"
    family = "temperature side"
    summary = "KD on the hardest samples, fewer as the loss falls, with a low temperature for hard ones"
    paper = "Xie et al., LLM-Oriented Token-Adaptive Knowledge Distillation, AAAI 2026, arXiv 2510.11615, and the authors' code"
    sample_wise = True
    normalisation = Normalisation.BATCH
    Settings = AdaKdSettings

    def __init__(self, settings: AdaKdSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.share = 1.0
        self.average: float | None = None
        self.reference: float | None = None

    @classmethod
    def needs(cls, settings: AdaKdSettings) -> Needs:
        return Needs(terms=("ce", settings.divergence))

    @classmethod
    def warm_up(cls, settings: AdaKdSettings, epochs: int) -> float:
        return settings.warm_up_share * epochs

    def shape_terms(self, context: Context) -> TermShape:
        hardness = self.hardness(context)
        median = hardness[self.selected(hardness)].median()
        relative = (hardness + SMALLEST) / (median + SMALLEST)
        return TermShape(temperature=context.temperature * torch.exp(-self.settings.sensitivity * relative.log().tanh()))

    def weights(self, context: Context) -> Weights:
        selected = self.selected(self.hardness(context)).float()
        kd = self.settings.kd_weight
        return {"ce": 1 - kd, self.settings.divergence: kd * selected / selected.mean()}

    def after_step(self, context: Context) -> None:
        settings = self.settings
        loss = float(context.terms[settings.divergence][self.selected(self.hardness(context))].mean())
        steps = max(1.0, settings.average_span * self.setup.total_steps)
        self.average = loss if self.average is None else self.average + (loss - self.average) / steps
        if self.reference is None:
            if context.progress > settings.warm_up_share:
                self.reference = self.average
            return
        fall = self.reference - self.average
        if abs(fall) > settings.tolerance * self.reference:
            change = 1 - settings.share_step if fall > 0 else 1 + settings.share_step
            self.share = min(max(self.share * change, LOWEST_SHARE), 1.0)
            self.reference = self.average

    def hardness(self, context: Context) -> torch.Tensor:
        """h, [batch], in [0, 1]."""
        student, teacher = (of(context, context.temperature) for of in (student_probabilities, teacher_probabilities))
        return ((student.sqrt() - teacher.sqrt()).square().sum(-1) / 2).sqrt()

    def selected(self, hardness: torch.Tensor) -> torch.Tensor:
        """[batch] bool."""
        count = max(1, int(len(hardness) * self.share))
        return highest(hardness, count)

    def state_dict(self) -> dict[str, Any]:
        return {"share": self.share, "average": self.average, "reference": self.reference}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.share, self.average, self.reference = state["share"], state["average"], state["reference"]
