"""GradNorm: weights that pull the terms' gradient norms together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from strategies.base import Context, Cost, Needs, Normalisation, Setup, Strategy, Weights
from strategies.lazy import torch
from strategies.parts.extra_terms import TermSettings
from strategies.parts.rounding import loss_ratio
from strategies.parts.state import detached
from strategies.registry import register
from strategies.space import FloatRange


class GradNormSettings(TermSettings):
    alpha: float = Field(1.5, ge=0.0)
    """How much more gradient a term gets that falls slower than the others; 0: the same norm for all."""
    learning_rate: float = Field(1e-2, gt=0.0)
    """Of the Adam that trains the weights' logits."""
    reference: Literal["first_epoch", "first_step"] = "first_epoch"
    """The losses that progress is measured from: the first epoch's means (plain sum until then), or the first step's."""

    search_space = {
        "alpha": FloatRange(low=0.0, high=3.0),
        "learning_rate": FloatRange(low=1e-3, high=1e-1, log=True),
    }


@register
class GradNorm(Strategy[GradNormSettings]):
    """w = M softmax(v); v follows the gradient of sum_m |G_m - stop(mean G * r_m^alpha)|, G_m = w_m |grad L_m|.

    r_m = (L_m / L_m(0)) / mean over terms. Norms are over all of the student's parameters.

    Differs: weights are a softmax, because they then stay positive without a projection; gradients are of all parameters,
    because a student has no single last shared layer; the reference is the first epoch's losses, because a single first batch's
    are noise.
    """

    name = "gradnorm"
    family = "multi-task"
    summary = "balances gradient norms, with more for terms that lag"
    paper = (
        "Chen et al., GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks, ICML 2018, with "
        "the softmax form of common multi-task libraries"
    )
    sample_wise = False
    learned = True
    cost = Cost.PER_TERM
    normalisation = Normalisation.BATCH
    Settings = GradNormSettings

    def __init__(self, settings: GradNormSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        terms = len(settings.terms)
        self.logits = torch.ones(terms, device=setup.device, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.logits], lr=settings.learning_rate)
        self.initial: dict[str, float] | None = None

    @classmethod
    def needs(cls, settings: GradNormSettings) -> Needs:
        return Needs(terms=settings.terms, teachers=(1, None), term_gramian=True)

    def weights(self, context: Context) -> Weights:
        means = {name: float(term.mean()) for name, term in context.terms.items()}
        if self.initial is None and self.settings.reference == "first_step":
            self.initial = means
        if self.initial is not None:
            assert context.term_gramian is not None
            norms = context.term_gramian().diagonal().clamp_min(0.0).sqrt()
            losses = torch.tensor([loss_ratio(means[name], self.initial[name]) for name in context.terms], device=norms.device)
            self.update(norms, losses)
        weights = len(means) * self.logits.detach().softmax(0)
        return dict(zip(context.terms, weights, strict=True))

    def update(self, norms: torch.Tensor, losses: torch.Tensor) -> None:
        """One Adam step, for gradient norms and losses relative to the initial ones, both [terms]."""
        weighted = len(norms) * self.logits.softmax(0) * norms
        rate = losses / losses.mean()
        target = (weighted.mean() * rate**self.settings.alpha).detach()
        self.optimizer.zero_grad(set_to_none=True)
        (weighted - target).abs().sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def end_epoch(self, epoch: int, mean_terms: Mapping[str, float]) -> None:
        if self.initial is None:
            self.initial = dict(mean_terms)

    def state_dict(self) -> dict[str, Any]:
        return {
            "initial": None if self.initial is None else dict(self.initial),
            **detached({"logits": self.logits, "optimizer": self.optimizer.state_dict()}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            self.logits.copy_(state["logits"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.initial = None if state["initial"] is None else dict(state["initial"])
