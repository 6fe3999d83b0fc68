"""Homoscedastic uncertainty: each loss term learns its own weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from strategies.base import Context, Needs, Normalisation, Setup, Strategy, Weights
from strategies.lazy import torch
from strategies.parts.extra_terms import TermSettings
from strategies.parts.state import detached
from strategies.registry import register
from strategies.space import Choice, FloatRange


class UncertaintySettings(TermSettings):
    form: Literal["kendall", "revised"] = "revised"
    """kendall: sum L / (2 exp s) + s / 2. revised: sum L / (2 sigma^2) + log(1 + sigma^2), which cannot become negative."""
    learning_rate: float = Field(1e-2, gt=0.0)
    """Of the Adam that trains s = log sigma^2, one number for each term."""
    bound: float = Field(5.0, gt=0.0)
    """s stays in [-bound, bound]: the best weight of a term is about 1 / L, which has no limit as L goes to 0."""

    search_space = {
        "form": Choice(values=["kendall", "revised"]),
        "learning_rate": FloatRange(low=1e-3, high=1e-1, log=True),
    }


@register
class Uncertainty(Strategy[UncertaintySettings]):
    """w_m = 1 / (2 sigma_m^2), sigma trained together with the student on the batch's mean losses L_m.

    Differs: s is bounded and has an Adam of its own, because a loss near 0 would have a weight without limit; the default is
    the revised penalty, because the first form's becomes negative; a cross-entropy has 1 / (2 sigma^2) in the first form, too,
    where the paper has 1 / sigma^2, as libraries do: s is another by log 2 for it, and the best weight the same, 1 / (2 L).
    """

    name = "uncertainty"
    family = "multi-task"
    summary = "learned noise level of each term (UW, Kendall or revised form)"
    paper = "Kendall, Gal & Cipolla, CVPR 2018; revised: Liebel & Koerner, arXiv 1805.06334"
    sample_wise = False
    learned = True
    normalisation = Normalisation.ADDITIVE
    Settings = UncertaintySettings

    def __init__(self, settings: UncertaintySettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        initial = -0.5 if settings.form == "kendall" else 0.0  # the usual starting points: s = -0.5, sigma = 1
        terms = len(settings.terms)
        self.log_variance = torch.full((terms,), initial, device=setup.device, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.log_variance], lr=settings.learning_rate)

    @classmethod
    def needs(cls, settings: UncertaintySettings) -> Needs:
        return Needs(terms=settings.terms, teachers=(1, None))

    def weights(self, context: Context) -> Weights:
        weights = 0.5 * torch.exp(-self.log_variance.detach())
        means = torch.stack([term.mean() for term in context.terms.values()])
        self.optimizer.zero_grad(set_to_none=True)
        self.objective(means).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        with torch.no_grad():
            self.log_variance.clamp_(-self.settings.bound, self.settings.bound)
        return dict(zip(context.terms, weights, strict=True))

    def objective(self, means: torch.Tensor) -> torch.Tensor:
        """What s minimises, for mean losses [terms]."""
        s = self.log_variance
        penalty = 0.5 * s if self.settings.form == "kendall" else torch.nn.functional.softplus(s)  # log(1 + exp s)
        return (0.5 * means * torch.exp(-s) + penalty).sum()

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = detached({"log_variance": self.log_variance, "optimizer": self.optimizer.state_dict()})
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            self.log_variance.copy_(state["log_variance"])
        self.optimizer.load_state_dict(state["optimizer"])
