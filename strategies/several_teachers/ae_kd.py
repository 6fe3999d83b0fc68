"""AE-KD: the teacher weights that make the joint gradient in logit space shortest."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from strategies.base import Context, Needs, Weights
from strategies.lazy import torch
from strategies.parts.several_teachers import PaperScaled, PaperScaleSettings, needs_teachers, scaled
from strategies.registry import register
from strategies.space import FloatRange

RIDGE = 1e-4
"""Added to the diagonal of the Gram matrix: of weights that are equally good, the most equal ones count."""


class AEKDSettings(PaperScaleSettings):
    nu: float = Field(0.5, gt=0.0, le=1.0)
    """No teacher gets more than 1 / (nu * teachers): 1 gives equal weights, 1 / teachers and less no bound."""
    gradient: Literal["batch", "mean"] = "batch"
    """A teacher's gradient: with respect to all logits of the batch, or its mean over samples, [classes]. The mean has one
    dimension for two classes, where unit vectors are equal or opposite."""

    search_space = {**PaperScaleSettings.search_space, "nu": FloatRange(low=0.1, high=0.9)}


@register
class AEKD(PaperScaled[AEKDSettings]):
    """w minimises |sum_k w_k g_k|^2 with sum 1 and 0 <= w_k <= 1 / (nu * teachers).

    g_k is the gradient of teacher k's KD term with respect to the student's logits, divided by its norm. The problem is the
    dual of a one-class support vector machine with the Gram matrix of the g_k as kernel.
    """

    name = "ae_kd"
    family = "several teachers"
    summary = "teacher weights of the shortest joint gradient in logit space"
    paper = "Du et al., Agree to Disagree: Adaptive Ensemble Knowledge Distillation in Gradient Space, NeurIPS 2020"
    sample_wise = False
    reconstruction = "The authors' form; nu's value in their code could not be read, and the gradient over the batch is ours."
    Settings = AEKDSettings

    @classmethod
    def needs(cls, settings: AEKDSettings) -> Needs:
        return needs_teachers()

    def weights(self, context: Context) -> Weights:
        teachers = len(context.teacher_logits)
        temperature = context.temperature
        student = (context.student_logits / temperature).softmax(-1)
        gradients = student - (context.teacher_logits / temperature).softmax(-1)
        flat = gradients.mean(1) if self.settings.gradient == "mean" else gradients.flatten(1)
        unit = torch.nn.functional.normalize(flat.double())
        weights = shortest(unit @ unit.T, self.settings.nu) if teachers > 1 else torch.ones(1)
        return scaled(weights.float().unsqueeze(-1).to(context.student_logits.device), self.settings)


def shortest(gramian: torch.Tensor, nu: float) -> torch.Tensor:
    """The weights w of vectors with this Gram matrix, [n, n] -> [n] on the CPU.

    They minimise w' G w + ridge |w|^2 with sum 1 and 0 <= w <= 1 / (nu n).
    """
    import numpy as np
    from scipy.optimize import LinearConstraint, minimize

    n = len(gramian)
    kernel = gramian.cpu().numpy() + RIDGE * np.eye(n)

    def squared_length(w: Any) -> tuple[Any, Any]:
        return w @ kernel @ w, 2 * kernel @ w

    # a solver of support vector machines fails where every weight is at a bound
    found = minimize(
        squared_length,
        np.full(n, 1 / n),
        jac=True,
        method="SLSQP",
        bounds=[(0.0, min(1.0, 1 / (nu * n)))] * n,
        constraints=LinearConstraint(np.ones((1, n)), 1.0, 1.0),
        options={"ftol": 1e-12, "maxiter": 200},
    )
    weights = torch.from_numpy(found.x).clamp_min(0.0)
    return weights / weights.sum()
