"""Fixed teacher weights from a logistic regression on the teachers' outputs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from strategies.base import Context, Needs, Normalisation, RoleView, Setup, Strategy, Weights
from strategies.lazy import torch
from strategies.parts.several_teachers import MixtureSettings, mixed, needs_teachers
from strategies.registry import register


class StackedEnsembleSettings(MixtureSettings):
    rows: Literal["meta", "fit"] = "meta"
    """What the regression is fitted on: held-out rows (the paper's LR-Dev-Ensemble; training then does without them), or the
    training rows (LR-Ensemble), which the teachers were trained on too. A strategy never sees `select`."""
    inverse_regularisation: float = Field(1.0, gt=0.0)
    """scikit-learn's C."""


@register
class StackedEnsemble(Strategy[StackedEnsembleSettings]):
    """w_k = max(beta_k, 0) / sum of them, beta the coefficients of sigmoid(sum_k beta_k z[k, i, c]) for "c is i's label".

    z[k, i, c] = log(p_k,i(c) / (1 - p_k,i(c))), over all samples i and classes c, with one coefficient a teacher and no
    intercept. For two classes this is the logistic regression of the label on the teachers' log-odds. Equal weights where no
    coefficient is positive.

    Differs: one coefficient a teacher on log-odds, clipped at 0, is ours, because the regression's inputs could not be read.
    """

    name = "stacked_ensemble"
    family = "several teachers"
    summary = "fixed teacher weights: the coefficients of a logistic regression on their outputs"
    paper = (
        "a baseline (logistic regression on the teachers) of Yuan et al., Reinforced Multi-Teacher Selection for Knowledge "
        "Distillation, AAAI 2021, arXiv 2012.06048"
    )
    sample_wise = False
    normalisation = Normalisation.CONVEX
    reconstruction = "The regression's inputs could not be read; one coefficient a teacher on log-odds, clipped at 0, is ours."
    Settings = StackedEnsembleSettings

    def __init__(self, settings: StackedEnsembleSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        rows = setup.meta if settings.rows == "meta" else setup.fit
        assert rows is not None
        coefficients = _coefficients(rows, settings.inverse_regularisation).clamp_min(0.0)
        total = coefficients.sum()
        shares = coefficients / total if total > 0 else torch.full_like(coefficients, 1 / len(coefficients))
        self.shares = shares.unsqueeze(-1).to(setup.device)

    @classmethod
    def needs(cls, settings: StackedEnsembleSettings) -> Needs:
        return needs_teachers(meta_set=settings.rows == "meta")

    def weights(self, context: Context) -> Weights:
        return mixed(self.shares, self.settings.kd_weight)


def _coefficients(rows: RoleView, inverse_regularisation: float) -> torch.Tensor:
    """[teachers]."""
    from sklearn.linear_model import LogisticRegression

    odds = log_odds(rows.teacher_logits)
    is_label = torch.nn.functional.one_hot(rows.labels, odds.shape[-1])
    model = LogisticRegression(C=inverse_regularisation, fit_intercept=False, tol=1e-6, max_iter=1000)
    model.fit(odds.flatten(1).T.double().numpy(), is_label.flatten().numpy())
    return torch.from_numpy(model.coef_[0]).float()


def log_odds(logits: torch.Tensor) -> torch.Tensor:
    """log(p(c) / (1 - p(c))) of every class c, [..., classes] -> [..., classes]; finite for finite logits."""
    classes = logits.shape[-1]
    others = torch.eye(classes, dtype=torch.bool, device=logits.device)
    rest = logits.unsqueeze(-2).masked_fill(others, float("-inf")).logsumexp(-1)
    return logits - rest
