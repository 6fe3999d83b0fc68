"""A free mixing weight for each sample, trained jointly with the student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from strategies.base import Context, Needs, Normalisation, Settings, Setup, Strategy, Weights
from strategies.lazy import torch
from strategies.parts.state import SampleMemory, detached
from strategies.registry import register
from strategies.space import FloatRange

BETAS, EPSILON = (0.9, 0.999), 1e-8


class FreeAlphaSettings(Settings):
    learning_rate: float = Field(0.01, gt=0.0)
    """Of the Adam that trains the weights."""
    initial: float = Field(0.5, ge=0.0, le=1.0)
    """Each sample's first KD weight."""
    bounded: bool = False
    """Keep the weights in [0, 1]."""

    search_space = {"learning_rate": FloatRange(low=1e-3, high=0.3, log=True)}


@register
class FreeAlpha(Strategy[FreeAlphaSettings]):
    """L = mean_i [(1 - a_i) ce_i + a_i kd_i], minimised over the student and every a_i on the training rows themselves.

    There is no held-out loss: a_i drifts toward the smaller of its two losses, without a bound. Each a_i has an Adam of its own
    that steps when its row is in the batch, and not else: `src/baseline_RW.py` of Chengming0501/TGeo-KD has one Adam over all
    rows, all of which are in every batch. In batches of some rows that Adam would go on moving the others by their momentum.

    Differs: each row has an Adam of its own, because batches here hold some rows and not all; temperature and T^2 are the
    study's, because all strategies share them.
    """

    name = "free_alpha"
    family = "meta-learned"
    summary = "ablation of RW-KD: one free weight a sample, trained on the training loss, no meta set"
    paper = "the RW-KD baseline in the released code of Hu et al. (TGeo-KD), ICLR 2024, arXiv 2312.15112; no meta-learner"
    sample_wise = True
    learned = True
    normalisation = Normalisation.FREE
    reconstruction = "The released code has temperature 4 and no T^2; here both are the study's."
    Settings = FreeAlphaSettings

    def __init__(self, settings: FreeAlphaSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.alpha = SampleMemory(setup.fit.ids, settings.initial, setup.device)
        self.first, self.second, self.steps = (torch.zeros_like(self.alpha.values) for _ in range(3))
        """Each row's moments in Adam, and its number of steps."""

    @classmethod
    def needs(cls, settings: FreeAlphaSettings) -> Needs:
        return Needs(teachers=(1, None))

    @classmethod
    def normalisation_with(cls, settings: FreeAlphaSettings) -> Normalisation:
        return Normalisation.CONVEX if settings.bounded else cls.normalisation

    def weights(self, context: Context) -> Weights:
        used = self.alpha[context.ids]
        self._step(context)
        return {"ce": 1 - used, "kd": used}

    def _step(self, context: Context) -> None:
        """Adam's step, with its usual constants, on the rows of the batch alone."""
        rows = self.alpha.position(context.ids)
        gradient = (context.terms["kd"] - context.terms["ce"]) / len(rows)
        self.steps[rows] += 1
        self.first[rows] = BETAS[0] * self.first[rows] + (1 - BETAS[0]) * gradient
        self.second[rows] = BETAS[1] * self.second[rows] + (1 - BETAS[1]) * gradient.square()
        first, second = (
            moment[rows] / (1 - beta ** self.steps[rows]) for moment, beta in zip((self.first, self.second), BETAS, strict=True)
        )
        alpha = self.alpha.values[rows] - self.settings.learning_rate * first / (second.sqrt() + EPSILON)
        self.alpha.values[rows] = alpha.clamp(0.0, 1.0) if self.settings.bounded else alpha

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = detached(
            {"alpha": self.alpha.values, "first": self.first, "second": self.second, "steps": self.steps}
        )
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.alpha.values.copy_(state["alpha"])
        self.first.copy_(state["first"])
        self.second.copy_(state["second"])
        self.steps.copy_(state["steps"])
