"""AE-KD: the teacher weights that make the joint gradient in logit space shortest."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from strategies.base import Context, Needs, Weights
from strategies.lazy import torch
from strategies.parts.several_teachers import PaperScaled, PaperScaleSettings, needs_teachers, scaled
from strategies.registry import register
from strategies.space import FloatRange

RIDGE = 1e-6
"""Times the Gram matrix's largest entry, added to its diagonal: of weights that are equally good, the most equal ones count."""


class AEKDSettings(PaperScaleSettings):
    tolerance: float = Field(0.6, gt=0.0, le=1.0)
    """C, the authors' -C: no teacher gets more than this (or than 1 / teachers, where that is more). 1: no bound."""
    gradient: Literal["mean", "batch"] = "mean"
    """A teacher's gradient: its mean over samples, [classes], as the authors have it, or with respect to all logits of the
    batch. The mean has one dimension for two classes."""
    normalise: bool = False
    """Find the weights of gradients of length 1, and divide each by its gradient's length: the authors' --svm_norm."""

    search_space = {**PaperScaleSettings.search_space, "tolerance": FloatRange(low=0.4, high=1.0)}


@register
class AEKD(PaperScaled[AEKDSettings]):
    """w minimises |sum_k w_k g_k|^2 with sum 1 and 0 <= w_k <= C.

    g_k is the gradient of teacher k's KD term with respect to the student's logits, its mean over the batch. The problem is the
    dual of a one-class support vector machine with nu = 1 / (C teachers) and the Gram matrix of the g_k as kernel:
    `find_optimal_svm` in helper/optimization.py, and `opt.nu` in train_student.py, of AnTuo1998/AE-KD.

    Differs: the problem is solved exactly, because the authors' solver stops early where gradients are small; KD's weight is
    searched, because theirs, 0.9 beside 1, is of their data.
    """

    name = "ae_kd"
    family = "several teachers"
    summary = "teacher weights of the shortest joint gradient in logit space"
    paper = "Du et al., Agree to Disagree: Adaptive Ensemble Knowledge Distillation in Gradient Space, NeurIPS 2020"
    sample_wise = False
    reconstruction = (
        "The problem is solved exactly; the authors' solver stops at an absolute tolerance of 1e-6, which small gradients meet "
        "early. Of equally good weights the most equal ones are taken. The authors' KD term has the weight 0.9 beside "
        "cross-entropy's 1."
    )
    Settings = AEKDSettings

    @classmethod
    def needs(cls, settings: AEKDSettings) -> Needs:
        return needs_teachers()

    def weights(self, context: Context) -> Weights:
        teachers = len(context.teacher_logits)
        if teachers == 1:
            return scaled(torch.ones(1, 1, device=context.student_logits.device), self.settings)
        temperature = context.temperature
        student = (context.student_logits / temperature).softmax(-1)
        # up to a factor that all teachers share, and that does not count
        gradients = student - (context.teacher_logits / temperature).softmax(-1)
        flat = (gradients.mean(1) if self.settings.gradient == "mean" else gradients.flatten(1)).double()
        lengths = flat.norm(dim=1, keepdim=True).clamp_min(1e-12)
        if self.settings.normalise:
            flat = flat / lengths
        weights = shortest(flat @ flat.T, self.settings.tolerance)
        if self.settings.normalise:
            weights = weights / lengths.squeeze(1).cpu()
            weights = weights / weights.sum()
        return scaled(weights.float().unsqueeze(-1).to(context.student_logits.device), self.settings)


def shortest(gramian: torch.Tensor, tolerance: float) -> torch.Tensor:
    """The weights w of vectors with this Gram matrix, [n, n] -> [n] on the CPU.

    They minimise w' G w + ridge |w|^2 with sum 1 and 0 <= w <= max(tolerance, 1 / n); ridge is RIDGE times G's largest entry.
    """
    import numpy as np
    from scipy.optimize import LinearConstraint, minimize

    n = len(gramian)
    kernel = gramian.cpu().numpy()
    kernel = kernel / max(kernel.max(), np.finfo(float).tiny) + RIDGE * np.eye(n)

    def squared_length(w: Any) -> tuple[Any, Any]:
        return w @ kernel @ w, 2 * kernel @ w

    # a solver of support vector machines fails where every weight is at a bound
    found = minimize(
        squared_length,
        np.full(n, 1 / n),
        jac=True,
        method="SLSQP",
        bounds=[(0.0, max(tolerance, 1 / n))] * n,
        constraints=LinearConstraint(np.ones((1, n)), 1.0, 1.0),
        options={"ftol": 1e-12, "maxiter": 200},
    )
    weights = torch.from_numpy(found.x).clamp_min(0.0)
    return weights / weights.sum()
