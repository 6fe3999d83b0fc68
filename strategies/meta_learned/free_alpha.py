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

    There is no held-out loss: a_i drifts toward the smaller of its two losses, without a bound.
    """

    name = "free_alpha"
    family = "meta-learned"
    summary = "ablation of RW-KD: one free weight a sample, trained on the training loss, no meta set"
    paper = "the RW-KD baseline in the released code of Hu et al. (TGeo-KD), ICLR 2024; not RW-KD as described"
    sample_wise = True
    learned = True
    normalisation = Normalisation.FREE
    reconstruction = "The released code has temperature 4 and no T^2; here both are the study's."
    Settings = FreeAlphaSettings

    def __init__(self, settings: FreeAlphaSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.alpha = SampleMemory(setup.fit.ids, settings.initial, setup.device)
        self.alpha.values.requires_grad_()
        self.optimizer = torch.optim.Adam([self.alpha.values], lr=settings.learning_rate)

    @classmethod
    def needs(cls, settings: FreeAlphaSettings) -> Needs:
        return Needs(teachers=(1, None))

    @classmethod
    def normalisation_with(cls, settings: FreeAlphaSettings) -> Normalisation:
        return Normalisation.CONVEX if settings.bounded else cls.normalisation

    def weights(self, context: Context) -> Weights:
        alpha = self.alpha[context.ids]
        loss = ((1 - alpha) * context.terms["ce"] + alpha * context.terms["kd"]).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if self.settings.bounded:
            with torch.no_grad():
                self.alpha.values.clamp_(0.0, 1.0)
        used = alpha.detach()
        return {"ce": 1 - used, "kd": used}

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = detached({"alpha": self.alpha.values, "optimizer": self.optimizer.state_dict()})
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            self.alpha.values.copy_(state["alpha"])
        self.optimizer.load_state_dict(state["optimizer"])
