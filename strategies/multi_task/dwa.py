"""Dynamic weight average: more weight for terms that fall slowly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from strategies.base import Context, Needs, Normalisation, Setup, Strategy, Weights
from strategies.lazy import torch
from strategies.parts.extra_terms import TermSettings
from strategies.parts.rounding import loss_ratio
from strategies.registry import register
from strategies.space import FloatRange


class DwaSettings(TermSettings):
    softness: float = Field(2.0, gt=0.0)
    """Temperature of the softmax over terms (T in the paper; not the distillation temperature)."""

    search_space = {"softness": FloatRange(low=0.2, high=5.0, log=True)}


@register
class Dwa(Strategy[DwaSettings]):
    """w_m = M * softmax_m( r_m / softness ), r_m = L_m(epoch - 1) / L_m(epoch - 2); ones in the first two epochs.

    As published, with losses of label and teacher as the tasks.
    """

    name = "dwa"
    family = "multi-task"
    summary = "weights from each term's loss ratio over the last two epochs"
    paper = "Liu, Johns & Davison, End-to-End Multi-Task Learning with Attention, CVPR 2019, eq. 7"
    sample_wise = False
    normalisation = Normalisation.BATCH
    Settings = DwaSettings

    def __init__(self, settings: DwaSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.history: list[dict[str, float]] = []

    @classmethod
    def needs(cls, settings: DwaSettings) -> Needs:
        return Needs(terms=settings.terms, teachers=(1, None))

    @classmethod
    def warm_up(cls, settings: DwaSettings, epochs: int) -> float:
        return 2.0  # ratios of losses need two epochs

    def weights(self, context: Context) -> Weights:
        if len(self.history) < 2:
            return dict.fromkeys(context.terms, 1.0)
        before, last = self.history
        ratios = torch.tensor([loss_ratio(last[name], before[name]) for name in context.terms])
        weights = len(ratios) * (ratios / self.settings.softness).softmax(0)
        return dict(zip(context.terms, weights.tolist(), strict=True))

    def end_epoch(self, epoch: int, mean_terms: Mapping[str, float]) -> None:
        self.history = [*self.history, dict(mean_terms)][-2:]

    def state_dict(self) -> dict[str, Any]:
        return {"history": [dict(means) for means in self.history]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.history = [dict(means) for means in state["history"]]
