"""KD between intermediate layers, compared as pseudo-classifiers' outputs (Universal-KD)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from harness.data.output_names import LAYERS
from harness.loss_terms.base import LossTerm, TermNeeds, TermOptions, TermSetup
from harness.loss_terms.registry import register_term
from strategies.lazy import torch

if TYPE_CHECKING:
    from harness.loss_terms.logit_terms import TermInputs


class LayerKdOptions(TermOptions):
    attention_gradient: bool = True
    """Let the gradient through the attention, too. With it the student may move to layers that are easy to imitate."""
    probe_rows: int = Field(10_000, ge=1)
    """The teacher's pseudo-classifiers are fitted on at most so many training rows."""
    probe_l2: float = Field(1e-3, gt=0.0)
    """Weight decay of that fit."""
    learning_rate_scale: float = Field(10.0, gt=0.0)
    """The student's pseudo-classifiers start from nothing: their learning rate, in those of the student."""


@register_term
class LayerKd(LossTerm[LayerKdOptions]):
    """mean_m T^2 KL( softmax(zbar_m / T) || softmax(zS_m / T) ), zbar_m = sum_n a_mn zT_n, a_mn = softmax_n <zS_m, zT_n>.

    zS_m = W_m hS_m + b_m is a trained pseudo-classifier on the first token after the student's layer m; zT_n likewise on the
    teacher's layer n, fitted to the labels before and then fixed. Several teachers: the mean over them.
    """

    name = "layer_kd"
    summary = "layers as pseudo-classifiers, each student layer with attention over the teacher's"
    Options = LayerKdOptions

    def __init__(self, options: LayerKdOptions, setup: TermSetup) -> None:
        super().__init__(options, setup)
        from harness.loss_terms.parts.probes import fit_probes

        self.learning_rate_scale = options.learning_rate_scale
        generator = torch.Generator().manual_seed(setup.seed)
        initial = 0.02 * torch.randn(
            setup.student_layers, setup.classes, setup.student_hidden_size, generator=generator
        )  # as BERT's heads start
        self.module = torch.nn.Module()
        self.module.register_parameter("weight", torch.nn.Parameter(initial))
        self.module.register_parameter("bias", torch.nn.Parameter(torch.zeros(setup.student_layers, setup.classes)))
        for k, layers in enumerate(setup.fit.teacher_outputs[LAYERS]):
            weights, biases = fit_probes(
                layers,
                setup.fit.encoded.labels,
                setup.classes,
                rows=options.probe_rows,
                l2=options.probe_l2,
                seed=setup.seed,
                device=setup.device,
            )
            self.module.register_buffer(f"teacher_weight{k}", weights)
            self.module.register_buffer(f"teacher_bias{k}", biases)

    @classmethod
    def needs(cls, options: LayerKdOptions) -> TermNeeds:
        return TermNeeds(
            student_layers=True,
            teacher_outputs=(LAYERS,),
            stops_gradient=not options.attention_gradient,
            bypasses_head=True,
        )

    def __call__(self, inputs: TermInputs) -> torch.Tensor:
        from harness.loss_terms.losses import kd

        assert self.module is not None
        assert inputs.student_layers is not None
        assert inputs.batch is not None
        own = self.module.get_parameter
        student = torch.einsum("mbh,mch->mbc", inputs.student_layers.float(), own("weight")) + own("bias").unsqueeze(1)
        values = []
        for k, hidden in enumerate(inputs.batch.teacher_outputs[LAYERS]):
            weight, bias = (self.module.get_buffer(f"teacher_{name}{k}") for name in ("weight", "bias"))
            teacher = torch.einsum("bnh,nch->nbc", hidden, weight) + bias.unsqueeze(1)
            asking = student if self.options.attention_gradient else student.detach()
            attention = torch.einsum("mbc,nbc->mbn", asking, teacher).softmax(-1)
            target = torch.einsum("mbn,nbc->mbc", attention, teacher)
            values.append(kd(student, target, inputs.shape.temperature).mean(0))
        return torch.stack(values).mean(0)
