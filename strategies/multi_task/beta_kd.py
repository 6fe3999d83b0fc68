"""Beta-KD: the KD weight as the precision of a prior, learned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from strategies.base import Context, Needs, Normalisation, Settings, Setup, Strategy, Weights
from strategies.lazy import torch
from strategies.parts.state import detached
from strategies.registry import register
from strategies.space import FloatRange


class BetaKdSettings(Settings):
    initial_weight: float = Field(1.0, gt=0.0)
    """beta at the start."""
    learning_rate: float = Field(1e-2, gt=0.0)
    """Of the Adam that trains log beta."""
    bound: float = Field(5.0, gt=0.0)
    """log beta stays in [-bound, bound]: the best beta is classes / (2 kd), which has no limit as the student learns."""

    search_space = {
        "initial_weight": FloatRange(low=0.25, high=8.0, log=True),
        "learning_rate": FloatRange(low=1e-3, high=1e-1, log=True),
    }


@register
class BetaKd(Strategy[BetaKdSettings]):
    """L = mean_i [ce_i + beta kd_i] - (K / 2) log beta, K classes; beta is trained together with the student.

    exp(-beta kd) is a prior over the student's logits that the teacher gives, and the last part what its Laplace-approximated
    normaliser costs. Task level, as in ugkd/methods/betakd.py of Selective-KD/Selective-KD, which cites eq. 15. beta tends to
    K / (2 kd): KD has more weight the nearer the student is to the teacher.

    Differs: an Adam for log beta alone, with a bound, because Selective-KD trains it with the student's optimiser,
    squashed; the authors' own code (mobilevlm/train/weighting.py of Jingchensun/beta-kd) trains Kendall's log variances
    of both losses in its place, which is `uncertainty` with form kendall from 0; their weights from the teacher's
    features are left out.
    """

    name = "beta_kd"
    family = "multi-task"
    summary = "learned KD weight, the precision of a prior that the teacher gives"
    paper = (
        "Sun et al., Uncertainty-Aware Knowledge Distillation for Multimodal Large Language Models, CVPR 2026, arXiv 2603.21426"
    )
    sample_wise = False
    learned = True
    normalisation = Normalisation.ADDITIVE
    reconstruction = "The paper was read in summaries; eq. 15 is as in Selective-KD's code."
    Settings = BetaKdSettings

    def __init__(self, settings: BetaKdSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.log_beta = torch.tensor(math.log(settings.initial_weight), device=setup.device, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.log_beta], lr=settings.learning_rate)

    @classmethod
    def needs(cls, settings: BetaKdSettings) -> Needs:
        return Needs(teachers=(1, None))

    def weights(self, context: Context) -> Weights:
        beta = self.log_beta.detach().exp()
        objective = self.log_beta.exp() * context.terms["kd"].mean() - context.classes / 2 * self.log_beta
        self.optimizer.zero_grad(set_to_none=True)
        objective.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        with torch.no_grad():
            self.log_beta.clamp_(-self.settings.bound, self.settings.bound)
        return {"ce": 1.0, "kd": beta}

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = detached({"log_beta": self.log_beta, "optimizer": self.optimizer.state_dict()})
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            self.log_beta.copy_(state["log_beta"])
        self.optimizer.load_state_dict(state["optimizer"])
