"""Loss terms that compare two distributions over the classes, and need nothing but the logits."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, TypeVar

from harness.loss_terms.base import LossTerm, TermOptions
from strategies.lazy import torch

if TYPE_CHECKING:
    from harness.loss_terms.logit_terms import TermInputs

O = TypeVar("O", bound=TermOptions)  # noqa: E741


class Divergence(LossTerm[O]):
    """T^power * D(softmax(t / T), softmax(s / T)), the mean over teachers, [batch].

    A divergence that is quadratic near equality falls as 1 / T^2, so that T^2 keeps its gradient's size, as in plain KD.
    """

    power: ClassVar[int] = 2

    @abstractmethod
    def between(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """[teachers, batch], of the logarithms of both distributions, each [teachers, batch, classes]."""

    def __call__(self, inputs: TermInputs) -> torch.Tensor:
        student, teacher = logits_of(inputs)
        temperature = per_class(inputs.shape.temperature)
        values = self.between((student / temperature).log_softmax(-1), (teacher / temperature).log_softmax(-1))
        mean: torch.Tensor = (values * inputs.shape.temperature**self.power).mean(0)
        return mean


def logits_of(inputs: TermInputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Student's and teachers' logits, both [teachers, batch, classes], in full precision at least. Raises ValueError."""
    if inputs.teacher_logits.shape[0] == 0:
        raise ValueError("a loss term compares with teachers, and this batch has none")
    student, teacher = (
        logits.to(torch.promote_types(logits.dtype, torch.float32)) for logits in (inputs.student_logits, inputs.teacher_logits)
    )
    return student.expand_as(teacher), teacher


def per_class(temperature: torch.Tensor | float) -> torch.Tensor | float:
    """A temperature per sample, made to broadcast over classes."""
    return temperature.unsqueeze(-1) if isinstance(temperature, torch.Tensor) and temperature.dim() > 0 else temperature


def kl(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """KL(first || second) of logarithms of distributions, [..., classes] -> [...], in nats."""
    total: torch.Tensor = torch.nn.functional.kl_div(second, first, reduction="none", log_target=True).sum(-1)
    return total
