"""Weights among several teachers: what each of them says about a batch, and how their weights join those of the labels.

A weighted sum of KL divergences, sum_k w_k KL(p_k || p_S), differs from the divergence of the weighted mean of the teachers'
probabilities, KL(sum_k w_k p_k || p_S), by a number that has no gradient in the student. So weights on the term `kd_each` are
distillation from the mixture of teachers too. (A mean of the teachers' logits would be another distribution.)
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import Field

from strategies.base import Context, Needs, Normalisation, RoleView, Settings, Strategy
from strategies.lazy import torch
from strategies.space import FloatRange

TERMS = ("ce", "kd_each")


class MixtureSettings(Settings):
    """Of a strategy whose paper mixes labels and teachers convexly, with teacher weights that sum to 1."""

    kd_weight: float = Field(0.5, ge=0.0, le=1.0)
    """Weight of all teachers together; cross-entropy gets the rest."""

    search_space = {"kd_weight": FloatRange(low=0.05, high=0.95)}


class PaperScaleSettings(MixtureSettings):
    """Of a strategy whose paper adds cross-entropy and distillation."""

    paper_scale: bool = False
    """The paper's own scale: all weights twice as large (at kd_weight 0.5 cross-entropy then has weight 1), and the teachers'
    weights with the sum that the paper gives them. The weights are then not convex."""


P = TypeVar("P", bound=PaperScaleSettings)


class PaperScaled(Strategy[P]):
    """A strategy whose weights are convex in the collection's scale, and no longer at `paper_scale`."""

    normalisation = Normalisation.CONVEX

    @classmethod
    def normalisation_with(cls, settings: P) -> Normalisation:
        return Normalisation.ADDITIVE if settings.paper_scale else cls.normalisation


def needs_teachers(**options: object) -> Needs:
    """Cross-entropy and a KD term for each of any number of teachers."""
    return Needs(terms=TERMS, teachers=(1, None), **options)  # type: ignore[arg-type]


def mixed(teacher_weights: torch.Tensor, kd_weight: float) -> dict[str, torch.Tensor | float]:
    """Cross-entropy gets 1 - kd_weight; teachers share kd_weight by teacher_weights, [teachers, batch or 1], which sum to 1."""
    return {"ce": 1.0 - kd_weight, "kd_each": kd_weight * teacher_weights}


def scaled(
    teacher_weights: torch.Tensor, settings: PaperScaleSettings, paper_sum: float = 1.0
) -> dict[str, torch.Tensor | float]:
    """`mixed`, or at `paper_scale` twice that with teacher weights that sum to `paper_sum`.

    One teacher keeps its weight of 1: the papers' factors, which go to 0 or 0 / 0 there, are among several.
    """
    if not settings.paper_scale:
        return mixed(teacher_weights, settings.kd_weight)
    total = paper_sum if len(teacher_weights) > 1 else 1.0
    return {"ce": 2 * (1 - settings.kd_weight), "kd_each": 2 * settings.kd_weight * total * teacher_weights}


def complement(shares: torch.Tensor) -> torch.Tensor:
    """(1 - shares) / (teachers - 1) for shares [teachers, ...] that sum to 1 over teachers; 1 for one teacher."""
    teachers = len(shares)
    return torch.ones_like(shares) if teachers == 1 else (1 - shares) / (teachers - 1)


def lowest(values: torch.Tensor) -> torch.Tensor:
    """[teachers, ...]: 1 for the teacher with the lowest value; teachers that tie share it."""
    found = (values == values.min(0).values).float()
    return found / found.sum(0)


def each_cross_entropy(teacher_logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Every teacher's cross-entropy with the labels at temperature 1.

    [teachers, batch, classes], [batch] -> [teachers, batch].
    """
    chosen = labels.expand(teacher_logits.shape[:-1]).unsqueeze(-1)
    return -teacher_logits.log_softmax(-1).gather(-1, chosen).squeeze(-1)


def each_accuracy(rows: RoleView) -> torch.Tensor:
    """[teachers]: share of the rows that a teacher gets right."""
    return (rows.teacher_logits.argmax(-1) == rows.labels).float().mean(-1)


def each_kd(student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 KL(teacher || student): [batch, classes], [teachers, batch, classes] -> [teachers, batch]."""
    student = (student_logits / temperature).log_softmax(-1).expand_as(teacher_logits)
    teacher = (teacher_logits / temperature).log_softmax(-1)
    divergence = torch.nn.functional.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
    return divergence * temperature**2


def centred(logits: torch.Tensor) -> torch.Tensor:
    """Logits without the constant that changes no probability, [..., classes]."""
    return logits - logits.mean(-1, keepdim=True)


def context_cross_entropy(context: Context) -> torch.Tensor:
    """`each_cross_entropy` of a step, [teachers, batch]."""
    return each_cross_entropy(context.teacher_logits, context.labels)
