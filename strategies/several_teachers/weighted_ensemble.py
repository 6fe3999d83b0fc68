"""Fixed teacher weights by the teachers' quality."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from strategies.base import Context, Needs, Normalisation, Setup, Strategy, Weights
from strategies.lazy import torch
from strategies.parts.several_teachers import MixtureSettings, each_accuracy, mixed, needs_teachers
from strategies.registry import register
from strategies.space import FloatRange


class WeightedEnsembleSettings(MixtureSettings):
    rows: Literal["meta", "fit"] = "meta"
    """Where the teachers' accuracy is measured. They were trained on `fit` and are nearly always right there; with `meta`,
    training does without the meta rows."""
    accuracy_temperature: float = Field(0.1, gt=0.0)
    """Softness of the weights: a teacher that is better by so much accuracy gets e times the weight."""
    teacher_weights: dict[str, float] | None = None
    """Weights by teacher name instead of measured ones, not negative; they are divided by their sum."""

    search_space = {**MixtureSettings.search_space, "accuracy_temperature": FloatRange(low=0.01, high=1.0, log=True)}


@register
class WeightedEnsemble(Strategy[WeightedEnsembleSettings]):
    """w_k = softmax_k(accuracy_k / accuracy_temperature), the same for all samples and steps.

    Differs: a softmax of held-out accuracies is ours, because a summary says of the paper's weights only that they differ and
    stay fixed.
    """

    name = "weighted_ensemble"
    family = "several teachers"
    summary = "fixed teacher weights by their accuracy, or given ones"
    paper = (
        "a baseline (fixed weights) of Yuan et al., Reinforced Multi-Teacher Selection for Knowledge Distillation, AAAI "
        "2021, arXiv 2012.06048"
    )
    sample_wise = False
    normalisation = Normalisation.CONVEX
    reconstruction = (
        "The paper's weights were read of in a summary; a softmax of held-out accuracies, and its temperature, are ours."
    )
    Settings = WeightedEnsembleSettings

    def __init__(self, settings: WeightedEnsembleSettings, setup: Setup) -> None:
        """Raises ValueError for given weights that do not fit the teachers."""
        super().__init__(settings, setup)
        if settings.teacher_weights is not None:
            shares = _given(settings.teacher_weights, setup.teachers)
        else:
            rows = setup.meta if settings.rows == "meta" else setup.fit
            assert rows is not None
            shares = (each_accuracy(rows) / settings.accuracy_temperature).softmax(0)
        self.shares = shares.unsqueeze(-1).to(setup.device)

    @classmethod
    def needs(cls, settings: WeightedEnsembleSettings) -> Needs:
        return needs_teachers(meta_set=settings.rows == "meta" and settings.teacher_weights is None)

    @classmethod
    def refuses_teachers(cls, settings: WeightedEnsembleSettings, hidden_sizes: Mapping[str, int | None]) -> str | None:
        given = settings.teacher_weights
        return None if given is None else _misfit(given, tuple(hidden_sizes))

    def weights(self, context: Context) -> Weights:
        return mixed(self.shares, self.settings.kd_weight)


def _misfit(weights: dict[str, float], teachers: tuple[str, ...]) -> str | None:
    """What is wrong with given weights for these teachers; None where nothing is."""
    wanted = f"a number that is not negative for each of {', '.join(teachers)}, and not 0 for all"
    if unknown := [name for name in weights if name not in teachers]:
        near = difflib.get_close_matches(unknown[0], teachers, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"teacher_weights names {unknown[0]!r}, which is no teacher of this strategy.{hint} It needs {wanted}"
    if set(weights) != set(teachers) or min(weights.values()) < 0 or sum(weights.values()) <= 0:
        return f"teacher_weights is {weights}; it needs {wanted}"
    return None


def _given(weights: dict[str, float], teachers: tuple[str, ...]) -> torch.Tensor:
    if reason := _misfit(weights, teachers):
        raise ValueError(f"weighted_ensemble: {reason}")
    values = torch.tensor([weights[name] for name in teachers])
    return values / values.sum()
