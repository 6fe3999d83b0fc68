"""Curriculum temperature: a temperature that learns to make distillation harder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from strategies.base import Context, Needs, Normalisation, Settings, Setup, Strategy, TermShape, Weights
from strategies.lazy import torch
from strategies.registry import register
from strategies.space import FloatRange


class CtkdSettings(Settings):
    kd_weight: float = Field(0.9, ge=0.0, le=1.0)
    """Weight of the KD term; cross-entropy gets the rest."""
    lowest_temperature: float = Field(1.0, gt=0.0)
    """T lies between this and this plus `temperature_span`."""
    temperature_span: float = Field(20.0, gt=0.0)
    """See `lowest_temperature`."""
    temperature_learning_rate: float = Field(0.05, gt=0.0)
    """Of the SGD on the temperature's parameter h."""
    momentum: float = Field(0.9, ge=0.0, lt=1.0)
    """Of the same SGD."""
    weight_decay: float = Field(5e-4, ge=0.0)
    """Of the same SGD: h is drawn to 0, the middle of the temperatures."""
    learning_rate_drops: tuple[float, ...] = (150 / 240, 180 / 240, 210 / 240)
    """Points of progress at which the learning rate falls to a tenth: the authors' epochs 150, 180 and 210 of 240."""
    ramp: float = Field(0.25, gt=0.0, le=1.0)
    """Progress at which the adversarial strength has reached 1. The authors take 10 of 240 epochs; fine-tuning has few."""

    search_space = {
        "kd_weight": FloatRange(low=0.3, high=0.95),
        "temperature_learning_rate": FloatRange(low=0.005, high=0.5, log=True),
    }


@register
class Ctkd(Strategy[CtkdSettings]):
    """T = lowest + span * sigmoid(h), h starting at 1; SGD takes h up the gradient of kd_weight * mean_i kd_i(T).

    The gradient's strength rises from 0 to 1 as (1 - cos) / 2. h is one of the parameters of the student's own SGD in
    the authors' code (`train_student.py` of zhengli97/CTKD): learning rate 0.05, momentum 0.9, weight decay 5e-4, and the rate
    falls with the student's. Here the student has AdamW, so h has that SGD for itself. The study's temperature is not used.

    Differs: h has an SGD of its own, because students here have AdamW; the strength rises from step to step, because trainings
    have few epochs.
    """

    name = "ctkd"
    family = "temperature side"
    summary = "one global temperature, trained against the student on an easy-to-hard schedule"
    paper = "Li et al., Curriculum Temperature for Knowledge Distillation, AAAI 2023, arXiv 2211.16231 (global form)"
    sample_wise = False
    learned = True
    normalisation = Normalisation.CONVEX
    reconstruction = "The strength rises from step to step; the authors' from epoch to epoch, over 10 of 240."
    Settings = CtkdSettings

    @classmethod
    def warm_up(cls, settings: CtkdSettings, epochs: int) -> float:
        return settings.ramp * epochs

    def __init__(self, settings: CtkdSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.h = torch.ones((), device=setup.device)
        self.velocity = torch.zeros((), device=setup.device)

    @classmethod
    def needs(cls, settings: CtkdSettings) -> Needs:
        return Needs(teachers=(1, None))

    def shape_terms(self, context: Context) -> TermShape:
        return TermShape(temperature=self.temperature(self.h))

    def weights(self, context: Context) -> Weights:
        h = self.h.clone().requires_grad_()
        loss = self.settings.kd_weight * mean_kd(context, self.temperature(h))
        (gradient,) = torch.autograd.grad(loss, h)
        descent = self.settings.weight_decay * self.h - self.strength(context.progress) * gradient
        self.velocity = self.settings.momentum * self.velocity + descent
        self.h = self.h - self.learning_rate(context.progress) * self.velocity
        return {"ce": 1.0 - self.settings.kd_weight, "kd": self.settings.kd_weight}

    def temperature(self, h: torch.Tensor) -> torch.Tensor:
        return self.settings.lowest_temperature + self.settings.temperature_span * torch.sigmoid(h)

    def learning_rate(self, progress: float) -> float:
        """Of the SGD on h."""
        drops = sum(progress >= point for point in self.settings.learning_rate_drops)
        return self.settings.temperature_learning_rate * 0.1**drops

    def strength(self, progress: float) -> float:
        """In [0, 1]."""
        return 0.5 * (1 - math.cos(math.pi * min(1.0, progress / self.settings.ramp)))

    def state_dict(self) -> dict[str, Any]:
        return {"h": self.h.clone(), "velocity": self.velocity.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.h.copy_(state["h"])
        self.velocity.copy_(state["velocity"])


def mean_kd(context: Context, temperature: torch.Tensor) -> torch.Tensor:
    """Mean over teachers and samples of T^2 KL(teacher || student), with a graph to the temperature."""
    teacher = (context.teacher_logits / temperature).log_softmax(-1)
    student = (context.student_logits / temperature).log_softmax(-1)
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(-1).mean()
