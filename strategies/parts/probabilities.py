"""What students and teachers say about a batch: probabilities, entropies, cross-entropies. All detached, float32."""

from __future__ import annotations

import math

from strategies.base import Context
from strategies.lazy import torch


def student_probabilities(context: Context, temperature: float = 1.0) -> torch.Tensor:
    """[batch, classes]."""
    return (context.student_logits / temperature).softmax(-1)


def teacher_probabilities(context: Context, temperature: float = 1.0) -> torch.Tensor:
    """[batch, classes]; of several teachers the mean."""
    mean: torch.Tensor = (context.teacher_logits / temperature).softmax(-1).mean(0)
    return mean


def entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """[..., classes] -> [...], in nats; 0 log 0 is 0."""
    total: torch.Tensor = torch.special.entr(probabilities).sum(-1)
    return total


def relative_entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Entropy over its largest possible value, log(classes): in [0, 1]."""
    return (entropy(probabilities) / math.log(probabilities.shape[-1])).clamp(0.0, 1.0)


def label_probability(probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """[batch]: the probability of each sample's label."""
    return probabilities.gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def student_cross_entropy(context: Context) -> torch.Tensor:
    """[batch], at temperature 1."""
    return torch.nn.functional.cross_entropy(context.student_logits, context.labels, reduction="none")


def teacher_cross_entropy(context: Context) -> torch.Tensor:
    """[batch], at temperature 1; of several teachers that of their mean probability."""
    mean_log = context.teacher_logits.log_softmax(-1).logsumexp(0) - math.log(context.teacher_logits.shape[0])
    return -label_probability(mean_log, context.labels)


def teacher_right(context: Context) -> torch.Tensor:
    """[batch] bool: whether the teacher's most probable class is the label."""
    right: torch.Tensor = teacher_probabilities(context).argmax(-1) == context.labels
    return right
