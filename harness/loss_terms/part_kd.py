"""KD on each part of the input alone, weighted by the parts' saliency (MSD)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from harness.data.output_names import PARTS
from harness.loss_terms.base import LossTerm, TermNeeds, TermOptions, TermSetup
from harness.loss_terms.registry import register_term
from strategies.lazy import torch

if TYPE_CHECKING:
    from harness.loss_terms.logit_terms import TermInputs

ROWS_AT_ONCE = 4096


class PartKdOptions(TermOptions):
    saliency: Literal["uniform", "population", "instance"] = "instance"
    """uniform: all parts alike. population: by the mean saliency over the training rows. instance: by the sample's own."""


@register_term
class PartKd(LossTerm[PartKdOptions]):
    """sum_m w_m KD(x with part m alone), w_m = S_m / sum of S, S_m(x) = KL( p_T(x) || p_T(x without part m) ) at T = 1.

    Parts are the two texts of a pair, or the two halves of a single one. Several teachers: the mean over them, in S and KD.
    Where no part is salient all weigh the same.
    """

    name = "part_kd"
    summary = "KD on each part of the input alone, weighted by saliency"
    Options = PartKdOptions

    def __init__(self, options: PartKdOptions, setup: TermSetup) -> None:
        super().__init__(options, setup)
        if options.saliency == "population":
            self.module = torch.nn.Module()
            self.module.register_buffer("mean_saliency", _mean_saliency(setup))

    @classmethod
    def needs(cls, options: PartKdOptions) -> TermNeeds:
        return TermNeeds(parts=True, teacher_outputs=(PARTS,))

    def __call__(self, inputs: TermInputs) -> torch.Tensor:
        values, parts = part_values(inputs)
        if self.options.saliency == "uniform":
            return values.mean(0)
        if self.options.saliency == "instance":
            found = saliency(inputs.teacher_logits, parts)
        else:
            assert self.module is not None
            found = self.module.get_buffer("mean_saliency").unsqueeze(-1).expand_as(values)
        return (normalised(found) * values).sum(0)


@register_term
class PartKdEach(LossTerm[TermOptions]):
    """KD(x with part m alone) for each part m, [parts, batch]: for strategies that weigh the parts themselves."""

    name = "part_kd_each"
    summary = "KD on each part of the input alone, a term a part"

    @classmethod
    def needs(cls, options: TermOptions) -> TermNeeds:
        return TermNeeds(parts=True, teacher_outputs=(PARTS,))

    def __call__(self, inputs: TermInputs) -> torch.Tensor:
        return part_values(inputs)[0]


def part_values(inputs: TermInputs) -> tuple[torch.Tensor, torch.Tensor]:
    """KD with each part alone [parts, batch], and the teachers' logits on the parts [teachers, parts, batch, classes]."""
    from harness.loss_terms.losses import kd

    assert inputs.student_parts is not None
    assert inputs.batch is not None
    teachers = torch.stack([one.transpose(0, 1) for one in inputs.batch.teacher_outputs[PARTS]])
    student = inputs.student_parts.float().expand_as(teachers)
    return kd(student, teachers, inputs.shape.temperature).mean(0), teachers


def saliency(whole: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
    """S [parts, batch], for logits on the whole input [teachers, batch, classes] and on the parts [teachers, parts, batch,
    classes]. There are two parts at most: without one of them, the other is left.
    """
    from harness.loss_terms.losses import kd

    without = parts.flip(1)
    return kd(without, whole.unsqueeze(1).expand_as(without), 1.0).mean(0)


def normalised(found: torch.Tensor) -> torch.Tensor:
    """Positive saliencies [parts, ...] that sum to 1 over the parts."""
    positive = found.clamp_min(0.0) + 1e-6  # KL can come out below 0 by rounding
    return positive / positive.sum(0)


def _mean_saliency(setup: TermSetup) -> torch.Tensor:
    import numpy as np

    fit = setup.fit
    total = torch.zeros(())
    for start in range(0, len(fit), ROWS_AT_ONCE):
        rows = np.arange(start, min(start + ROWS_AT_ONCE, len(fit)))
        parts = torch.stack([torch.from_numpy(one[rows]).transpose(0, 1) for one in fit.teacher_outputs[PARTS]])
        total = total + saliency(torch.from_numpy(fit.teacher_logits[:, rows]), parts).double().sum(-1)
    return (total / len(fit)).float()
