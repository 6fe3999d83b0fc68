"""DA-KD: each epoch on fewer rows, those that the student finds hard and the teacher easy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from strategies.base import Context, Cost, Needs, Normalisation, Settings, Setup, Strategy, Weights
from strategies.lazy import torch
from strategies.parts.state import SampleMemory
from strategies.registry import register
from strategies.space import Choice, FloatRange


class DaKdSettings(Settings):
    kd_weight: float = Field(1.0, ge=0.0, le=1.0)
    """Weight of the divergence of the selected rows; their cross-entropy gets the rest. 1: the authors' way, without labels."""
    mixing: float = Field(0.9, gt=0.0, lt=1.0)
    """Of the divergence: how much of the student is in the teacher's place, and the other way round (lambda in the paper)."""
    easy_share: float = Field(0.1, ge=0.0, le=1.0)
    """Share of the selected rows that is drawn from the easy ones (tau in the paper)."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """How the share of rows that is selected falls from 1 in the first epoch towards 0."""

    search_space = {
        "kd_weight": FloatRange(low=0.3, high=1.0),
        "mixing": FloatRange(low=0.6, high=0.95),
        "easy_share": FloatRange(low=0.0, high=0.5),
        "schedule": Choice(values=["cosine", "linear"]),
    }


@register
class DaKd(Strategy[DaKdSettings]):
    """L = mean_i v_i [(1 - kd_weight) ce_i + kd_weight D_i], v_i = N / n for the n selected of N training rows, else 0.

    D is the term `bidirectional_kl` (eq. 4). In epoch e of E, counted from 0, n = r N with r = (1 + cos(pi e / E)) / 2, or
    1 - e / E (eq. 2); the authors' iterations, 1,963 of 3,570 in ten epochs, are those of the cosine. Rows are sorted by
    ce_student / ce_teacher (eq. 1) of the student as it is then; (1 - easy_share) n rows are drawn from the first n and
    easy_share n from the rest (eq. 3, algorithm 1). A student's pass over all rows stands before each epoch but the first.

    Differs: rows that are not selected weigh 0 and are not left out, because all strategies are compared at the same steps
    (the authors save them); where fewer easy rows are left than wanted, hard ones are in their place, because the paper says
    nothing; T and T^2, because all divergences here have them, and a sample stands for a text.

    Claims: bidirectional_kl rises with teacher agreement.
    """

    name = "da_kd"
    family = "sample-wise heuristic"
    summary = "fewer rows each epoch, those on which the student is behind the teacher, and a few easy ones"
    paper = "He et al., DA-KD: Difficulty-Aware Knowledge Distillation for Efficient Large Language Models, ICML 2025"
    sample_wise = True
    cost = Cost.REPLAY
    normalisation = Normalisation.ADDITIVE
    Settings = DaKdSettings

    def __init__(self, settings: DaKdSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.weight = SampleMemory(setup.fit.ids, 1.0, setup.device)
        self.teacher_loss = _cross_entropy(setup.fit.teacher_logits[0], setup.fit.labels)

    @classmethod
    def needs(cls, settings: DaKdSettings) -> Needs:
        options = {"bidirectional_kl": {"mixing": settings.mixing}}
        return Needs(terms=("ce", "bidirectional_kl"), replay=True, term_options=options)

    @classmethod
    def refuses(cls, settings: DaKdSettings, classes: int) -> str | None:
        if settings.mixing != 0.5:
            return None
        return (
            "da_kd: with mixing 0.5 both mixtures are the same, and the divergence is 0. Choose another one; the paper has 0.9"
        )

    def weights(self, context: Context) -> Weights:
        weight = self.weight[context.ids]
        return {"ce": (1 - self.settings.kd_weight) * weight, "bidirectional_kl": self.settings.kd_weight * weight}

    def after_step(self, context: Context) -> None:
        epoch, steps = divmod(context.step + 1, self.setup.steps_per_epoch)
        if steps == 0 and epoch < self.setup.epochs:
            self.weight[self.setup.fit.ids] = self._selected(context, epoch).to(self.setup.device)

    def share(self, epoch: int) -> float:
        """Of the training rows that are selected in this epoch, in (0, 1]."""
        done = epoch / self.setup.epochs
        return (1 + math.cos(math.pi * done)) / 2 if self.settings.schedule == "cosine" else 1 - done

    def _selected(self, context: Context, epoch: int) -> torch.Tensor:
        """The rows' weights in this epoch, [rows] on the CPU, in the order of `Setup.fit`."""
        rows = len(self.setup.fit.ids)
        selected = max(1, round(self.share(epoch) * rows))
        easy = min(round(self.settings.easy_share * selected), rows - selected)
        order = self._difficulty(context).argsort(descending=True, stable=True)
        hard_draw, easy_draw = (torch.randperm(n, generator=context.generator) for n in (selected, rows - selected))
        weight = torch.zeros(rows)
        weight[order[:selected][hard_draw[: selected - easy]]] = rows / selected
        weight[order[selected:][easy_draw[:easy]]] = rows / selected
        return weight

    def _difficulty(self, context: Context) -> torch.Tensor:
        """[rows], the logarithm of the score: no teacher's loss is too small for it."""
        assert context.replay is not None
        student_loss = _cross_entropy(context.replay(self.setup.fit.ids).cpu(), self.setup.fit.labels)
        return student_loss.log() - self.teacher_loss.clamp_min(torch.finfo(torch.float32).tiny).log()

    def state_dict(self) -> dict[str, Any]:
        return self.weight.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.weight.load_state_dict(state)


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """[rows]."""
    return torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
