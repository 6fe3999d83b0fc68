"""The loss functions, one number per sample, never reduced.

Notation: student logits s, teacher logits t, temperature T, p^T = softmax(. / T). `batch` may be preceded by further
dimensions, such as one for teachers. A temperature is a number, a scalar tensor, or a tensor that broadcasts to the leading
dimensions of the logits (one value a sample: [batch]).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Temperature = Tensor | float


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log softmax(logits)[label].

    logits [batch, classes], labels int64 [batch] -> [batch].
    """
    return F.cross_entropy(logits, labels, reduction="none")


def kd(student: Tensor, teacher: Tensor, temperature: Temperature) -> Tensor:
    """T^2 * KL(softmax(t / T) || softmax(s / T)) (Hinton et al. 2015), in nats.

    The factor T^2 keeps the size of the gradient, T * (p_S^T - p_T^T), roughly independent of T.
    student and teacher [..., batch, classes], temperature a number or [batch] -> [..., batch].
    """
    t = _per_sample(temperature)
    divergence = F.kl_div(
        F.log_softmax(student / t, -1), F.log_softmax(teacher / t, -1), reduction="none", log_target=True
    ).sum(-1)
    return divergence * temperature**2


def kd_each(student: Tensor, teachers: Tensor, temperature: Temperature) -> Tensor:
    """`kd` with every teacher.

    student [batch, classes], teachers [teachers, batch, classes] -> [teachers, batch].
    """
    return kd(student.expand_as(teachers), teachers, temperature)


def mse_logits(student: Tensor, teacher: Tensor, scale: Temperature = 1.0) -> Tensor:
    """Mean over classes of (s - scale * t)^2: regression on the teacher's scaled logits (Annealing-KD, Jafari et al. 2021).

    student and teacher [..., batch, classes], scale a number or [batch] -> [..., batch].
    """
    return (student - _per_sample(scale) * teacher).square().mean(-1)


def tckd(student: Tensor, teacher: Tensor, labels: Tensor, temperature: Temperature) -> Tensor:
    """Target-class part of decoupled KD (Zhao et al., CVPR 2022): T^2 * KL of the binary distributions (label, not label).

    kd = tckd + (1 - p_T^T[label]) * nckd. student and teacher [..., batch, classes], labels int64 [batch] -> [..., batch].
    """
    t = _per_sample(temperature)
    return kd(_binary_logits(student / t, labels), _binary_logits(teacher / t, labels), 1.0) * temperature**2


def nckd(student: Tensor, teacher: Tensor, labels: Tensor, temperature: Temperature) -> Tensor:
    """Non-target part of decoupled KD (Zhao et al., CVPR 2022): T^2 * KL among the classes beside the label.

    Identically 0 with two classes. student and teacher [..., batch, classes], labels int64 [batch] -> [..., batch].
    """
    return kd(_other_logits(student, labels), _other_logits(teacher, labels), temperature)


def standardised_kd(student: Tensor, teacher: Tensor, temperature: Temperature) -> Tensor:
    """`kd` between logits standardised over the classes of each sample (Sun et al., CVPR 2024).

    With two classes a standardised pair is always (+, -) or (-, +) 0.71: only the teacher's decision is left, and the gradient
    vanishes wherever student and teacher agree. student and teacher [..., batch, classes] -> [..., batch].
    """
    return kd(_standardised(student), _standardised(teacher), temperature)


def _per_sample(value: Temperature) -> Temperature:
    """A value per sample, made to broadcast over classes."""
    return value.unsqueeze(-1) if isinstance(value, Tensor) and value.dim() > 0 else value


def _standardised(logits: Tensor) -> Tensor:
    centred = logits - logits.mean(-1, keepdim=True)
    return centred / (1e-7 + logits.std(-1, keepdim=True))


def _other_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """[..., batch, classes] -> [..., batch, classes - 1]: without each sample's label."""
    others = torch.arange(logits.shape[-1] - 1, device=logits.device)
    columns = others + (others >= labels.unsqueeze(-1))
    return logits.gather(-1, columns.expand(*logits.shape[:-1], -1))


def _binary_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """[..., batch, classes] -> [..., batch, 2]: logits whose softmax is (p[label], 1 - p[label])."""
    label = logits.gather(-1, labels.unsqueeze(-1).expand(*logits.shape[:-1], 1))
    return torch.cat([label, _other_logits(logits, labels).logsumexp(-1, keepdim=True)], -1)
