"""TAID: a target that starts near the student and goes to the teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from strategies.base import Context, Needs, Normalisation, Settings, Setup, Strategy, TermShape, Weights
from strategies.registry import register
from strategies.space import FloatRange


class TaidSettings(Settings):
    kd_weight: float = Field(1.0, ge=0.0, le=1.0)
    """Weight of the term; cross-entropy with the labels gets the rest."""
    first_share: float = Field(0.4, ge=0.0, lt=1.0)
    """The teacher's share in the target at the start; 1 at the end. The authors' scripts have 0.2 or 0.4."""
    adaptive_rate: float = Field(5e-4, ge=0.0, le=1.0)
    """How far a step can take the share ahead of the line from `first_share` to 1 (alpha in the paper)."""
    average_keep: float = Field(0.99, ge=0.0, lt=1.0)
    """Share of the old value in the moving average of the loss's relative change (beta in the paper)."""

    search_space = {"kd_weight": FloatRange(low=0.3, high=1.0), "first_share": FloatRange(low=0.0, high=0.8)}


@register
class Taid(Strategy[TaidSettings]):
    """L = mean_i [(1 - kd_weight) ce_i + kd_weight CE(m_i, q_i)], m_i = softmax(((1 - r) s_i + r t_i) / T) held still.

    After each step r becomes max(line, r + adaptive_rate sigmoid(v) (1 - r)), at most 1: line goes from first_share to 1 with
    the training, and v is a moving average of (L' - L) / L', L' the loss of the step before. The gradient is (q - m) T, near
    r = 0 r times that of plain KD: to the student this is a KD weight that grows as it learns. The term is `interpolated_ce`.

    Differs: T and T^2, because all divergences here have them (T is 1 there). The authors' rate is for trainings of many
    steps: in a short one the line leads.
    """

    name = "taid"
    family = "scheduled"
    summary = "a target that goes from the student's own outputs to the teacher's as the loss falls"
    paper = (
        "Shing et al., TAID: Temporally Adaptive Interpolated Distillation for Efficient Knowledge Transfer in Language "
        "Models, ICLR 2025, arXiv 2501.16937, and the authors' code"
    )
    sample_wise = False
    normalisation = Normalisation.CONVEX
    Settings = TaidSettings

    def __init__(self, settings: TaidSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.share = settings.first_share
        self.change = 0.0
        self.last_loss: float | None = None

    @classmethod
    def needs(cls, settings: TaidSettings) -> Needs:
        return Needs(terms=("ce", "interpolated_ce"), teachers=(1, None))

    def shape_terms(self, context: Context) -> TermShape:
        return TermShape(temperature=context.temperature, teacher_share=self.share)

    def weights(self, context: Context) -> Weights:
        return {"ce": 1 - self.settings.kd_weight, "interpolated_ce": self.settings.kd_weight}

    def after_step(self, context: Context) -> None:
        settings, loss = self.settings, float(context.terms["interpolated_ce"].mean())
        if self.last_loss is not None:
            fall = (self.last_loss - loss) / (self.last_loss + 1e-15)
            self.change = settings.average_keep * self.change + (1 - settings.average_keep) * fall
            line = settings.first_share + (1 - settings.first_share) * context.progress
            ahead = self.share + settings.adaptive_rate * (1 - self.share) / (1 + math.exp(-self.change))
            self.share = min(1.0, max(line, ahead))
        self.last_loss = loss

    def state_dict(self) -> dict[str, Any]:
        return {"share": self.share, "change": self.change, "last_loss": self.last_loss}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.share, self.change, self.last_loss = state["share"], state["change"], state["last_loss"]
