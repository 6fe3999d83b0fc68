"""The look-ahead: how a small step on each (sample, loss term) would change the loss on a meta batch.

After one SGD step theta' = theta - eta * grad( sum_i sum_m w[m, i] * l[m, i](theta) / rows ) the meta loss changes with a
weight as

    d L_meta(theta') / d w[m, i] = -eta / rows * a[m, i],    a[m, i] = < grad L_meta(theta'), grad l[m, i](theta) >,

(Ren et al., ICML 2018; Shu et al., NeurIPS 2019), so all of them together are one directional derivative of the per-sample
terms at theta, along v = grad L_meta(theta'). `harness.look_ahead.directional` has three ways to take it. With AdamW's step in
the place of SGD's (`harness.look_ahead.adam`), v = J^T grad L_meta(theta'), J the derivative of its step in the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.data.batch import Batch
from harness.look_ahead.adam import AdamWStep
from harness.look_ahead.directional import (
    TermsAt,
    aliases,
    along_difference,
    along_double_backward,
    along_forward_mode,
    largest_weight,
)
from harness.loss_terms.losses import cross_entropy
from harness.loss_terms.registry import step_refusal
from harness.models.build import Outputs
from harness.models.evaluate import as_in_evaluation, autocast
from harness.models.forward_trace import ForwardTrace
from harness.models.layers import moved_names
from harness.models.student_pass import StudentPass, in_micro_batches, passes_forward
from strategies.base import LookAheadEngine, LookAheadStep

Terms = Callable[[Outputs, Batch], dict[str, Tensor]]
CENTRAL_RADIUS = 1e-3
FORWARD_RADIUS = 3e-4
ADAMW_RADIUS = 1e-2
"""Along AdamW's direction, which is spread over all entries: terms change less along it, and rounding counts for more."""


class LookAhead:
    """Meta-gradients for one student, which is the bare module: not wrapped for several ranks.

    Dropout is off on the meta batch; on the training batch too, unless `influence` is given the trace of the training step's
    forward pass, whose dropout masks are then repeated: the influence is that of the gradient which the step really follows.
    Parameters, their `.grad`, the module's modes and the random generators are left as they were: perturbed copies are run,
    because a training step's graph may hold the parameters.

    terms            (outputs, batch) -> name -> [batch] or [teachers, batch], never reduced
    engine           `exact` (double backward), `jvp` (forward mode) or `fd` (a finite difference of two passes without a
                     graph). The first two take attention apart, as fused kernels are differentiated once, and backward only
    meta_kd_weight   L_meta = sum over the meta batch of (ce + meta_kd_weight * kd) / its global rows
    radius           length of the finite difference's step in parameter space; by default FORWARD_RADIUS where `influence` is
                     given `base_terms`, and CENTRAL_RADIUS else; ADAMW_RADIUS with the step `adamw`
    layers           the look-ahead moves the last so many encoder layers and the head only; all other parameters stay
    shortest_step    the step from theta is taken where it is at least this long: learning rate * largest weight. Not taking it
                     saves a forward and a backward pass, and costs nothing at the rates of fine-tuning: for a three-layer
                     MiniLM on MRPC and SST-2 the cosine to the exact meta-gradient stays above 0.9999 at 2e-4
    weights_at_most  a bound on the weights, where a strategy knows one: too short a step is known then without a wait for them
    meta_precision   bf16: the meta gradient is computed in bf16 autocast, which moves the influences by its rounding alone: the
                     cosine to the exact ones stays above 0.9999 (the same students)
    jvp_precision    bf16: likewise the terms that `jvp` differentiates; the cosine stays there. The other engines take them in
                     full precision
    features, layer_features run the model with its pooled features, or every layer's, for terms that use them
    reduce_sum       sums each tensor of a list over ranks, in place; every rank then holds its own rows' influence
    precondition     maps the meta gradient, in the order of `parameters`, to the direction that is used in its place, e.g. to
                     divide by Adam's root mean square
    step             the look-ahead's step: `sgd`; `adamw`, that of the student's optimiser; or `adamw_point`, the same with the
                     meta gradient there as it is, without J (LGTM, Ren et al., ACL 2023). Both want `optimizer_step`, which is
                     set afterwards, and weights, and are taken however short they are
    """

    def __init__(
        self,
        model: nn.Module,
        terms: Terms,
        engine: LookAheadEngine,
        *,
        meta_kd_weight: float = 0.0,
        radius: float | None = None,
        layers: int | None = None,
        shortest_step: float = 0.0,
        weights_at_most: float | None = None,
        meta_precision: str = "fp32",
        jvp_precision: str = "fp32",
        features: bool = False,
        layer_features: bool = False,
        reduce_sum: Callable[[list[Tensor]], None] | None = None,
        precondition: Callable[[list[Tensor]], list[Tensor]] | None = None,
        step: LookAheadStep = "sgd",
    ) -> None:
        if engine not in get_args(LookAheadEngine):
            raise ValueError(f"there is no look-ahead engine {engine!r}; there are {', '.join(get_args(LookAheadEngine))}")
        if radius is not None and not radius > 0:
            raise ValueError(f"radius is {radius}; it must be positive")
        if reason := step_refusal({"step": step, "layers": layers, "precondition": precondition}):
            raise ValueError(reason)
        self.model = model
        self.terms = terms
        self.engine = engine
        self.meta_kd_weight = meta_kd_weight
        self.radius = radius
        self.layers = layers
        self.shortest_step = shortest_step
        self.weights_at_most = weights_at_most
        self.meta_precision = meta_precision
        self.terms_precision = jvp_precision if engine == "jvp" else "fp32"
        self.features = features
        self.layer_features = layer_features
        self.reduce_sum = reduce_sum
        self.precondition = precondition
        self.step = step
        self.optimizer_step: AdamWStep | None = None
        self.micro_batches = 1
        """In so many parts a batch is passed (`harness.models.student_pass`), for want of memory."""
        self.student_forward = 0
        """Samples passed forward, be it through all layers or, with `layers`, the upper ones. Forward mode counts twice: it
        computes values and derivatives."""
        self.student_backward = 0
        """Samples passed backward. Double backward counts three times: a gradient, and the way back through both passes."""
        moved = moved_names(model, layers)
        self._names = [name for name, parameter in model.named_parameters() if parameter.requires_grad and name in moved]
        self._fixed = [name for name, _ in model.named_parameters() if name not in set(self._names)]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What the look-ahead moves. `train_gradient` and `precondition` are in this order."""
        found = dict(self.model.named_parameters())
        return [found[name] for name in self._names]

    def new_trace(self, masks_alone: bool = False) -> ForwardTrace:
        """For the training step's pass, before it. No layer is passed over where terms use all, or a batch is not one pass.

        masks_alone   of a pass in another precision, whose hidden states are not these
        """
        whole = self.micro_batches == 1
        layers = self.layers if whole and not self.layer_features and not masks_alone else None
        return ForwardTrace(self.model, layers, own_masks=whole and self.engine != "fd")  # whose passes are the step's kernels'

    def takes_step(self, learning_rate: float, largest: float | None) -> bool:
        """Whether `influence` takes the step that weights of at most `largest` make; None: without weights."""
        if self.step != "sgd":  # all entries of it are about as long as the learning rate
            return True
        return largest is not None and learning_rate * largest >= self.shortest_step

    def largest(self, weights: Mapping[str, Tensor | float], learning_rate: float) -> float:
        """For `takes_step`: the largest weight, or as much of it as is needed to know."""
        if self.step != "sgd" or not self.shortest_step:
            return 0.0
        bound = self.weights_at_most
        return bound if bound is not None and learning_rate * bound < self.shortest_step else largest_weight(weights)

    def meta_gradient_here(self, meta_batch: Batch) -> list[Tensor]:
        """Where the student stands; in the order of `parameters`, of all ranks."""
        with as_in_evaluation(self.model):
            return self._meta_gradient(self._theta, meta_batch)

    def influence(
        self,
        batch: Batch,
        meta_batch: Batch,
        learning_rate: float,
        weights: Mapping[str, Tensor | float] | None = None,
        *,
        train_gradient: Sequence[Tensor] | None = None,
        base_terms: Mapping[str, Tensor] | None = None,
        trace: ForwardTrace | None = None,
        largest: float | None = None,
        meta_gradient: list[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """a[m, i] for every term m and sample i of this rank's rows, in the terms' shapes, detached.

        Without `weights` the meta gradient is taken at theta (the per-sample form); with `weights`, which broadcast to their
        terms, after one step with `learning_rate` on the loss that they weigh (the network form).

        train_gradient   gradient of the weighted loss at theta where it is known (of all ranks): saves its passes
        base_terms       the terms at theta where they are known to full precision: saves `fd` a pass. Not used where PyTorch is
                         set to multiply float32 matrices in less (`torch.set_float32_matmul_precision`)
        trace            of a pass on `batch` at theta in the terms' precision, such as the training step's: its dropout masks
                         are used, and, with `layers`, its hidden states below them. `train_gradient` and `base_terms` must be
                         of that pass, or, without a trace, of one without dropout
        largest          of all ranks' weights, where `weights` are those of this rank: all must take the step, or none
        meta_gradient    `meta_gradient_here` of the meta batch, where it was taken before: of use where no step is taken, and
                         overwritten
        """
        if weights is not None and largest is None:
            largest = self.largest(weights, learning_rate)
        if torch.get_float32_matmul_precision() != "highest":
            base_terms = None  # of a pass that was rounded otherwise than those here
        theta = self._theta
        with as_in_evaluation(self.model):
            trace = trace or self.new_trace()
            if weights is None and self.step != "sgd":
                raise ValueError(f"a look-ahead by {self.step} is asked with the weights that the step is taken with")
            if weights is not None and self.takes_step(learning_rate, largest):
                with trace.modes():
                    gradient = train_gradient or self._train_gradient(theta, batch, weights, trace)
                if self.optimizer_step is None or self.step == "sgd":
                    where = list(torch._foreach_add(theta, list(gradient), alpha=-learning_rate))
                    direction = self._meta_gradient(where, meta_batch)
                else:
                    where, pulled_back = self.optimizer_step.taken(theta, gradient, learning_rate)
                    direction = self._meta_gradient(where, meta_batch)
                    direction = direction if self.step == "adamw_point" else pulled_back(direction)
            else:
                direction = meta_gradient or self._meta_gradient(theta, meta_batch)
            if self.precondition is not None:
                direction = self.precondition(direction)
            with trace.modes():
                return self._along(theta, direction, batch, base_terms, trace)

    def _train_gradient(
        self, theta: list[Tensor], batch: Batch, weights: Mapping[str, Tensor | float], trace: ForwardTrace
    ) -> Sequence[Tensor]:
        leaves = [tensor.requires_grad_() for tensor in aliases(theta)]
        terms = self._terms_at(batch, trace)(leaves)
        if set(weights) != set(terms):
            raise ValueError(f"the look-ahead got weights for {sorted(weights)}, but the terms are {sorted(terms)}")
        loss = torch.stack([(weights[name] * value).sum() for name, value in terms.items()]).sum() / batch.global_rows
        return self._gradient(loss, leaves, batch)

    def _meta_gradient(self, where: list[Tensor], meta_batch: Batch) -> list[Tensor]:
        leaves = [tensor.requires_grad_() for tensor in aliases(where)]
        if not self.meta_kd_weight:
            meta_batch = replace(meta_batch, parts=())  # only terms use them
        with autocast(self.device, self.meta_precision):
            outputs = self._run(leaves, meta_batch)
        self.student_forward += meta_batch.samples
        loss = cross_entropy(outputs.logits, meta_batch.labels).sum()
        if self.meta_kd_weight:
            terms = self.terms(outputs, meta_batch)
            if "kd" not in terms and "kd_each" not in terms:
                raise ValueError(f"meta_kd_weight needs the term kd or kd_each, and the terms are {sorted(terms)}")
            kd = terms["kd"] if "kd" in terms else terms["kd_each"].mean(0)
            loss = loss + self.meta_kd_weight * kd.sum()
        return self._gradient(loss / meta_batch.global_rows, leaves, meta_batch)

    def _gradient(self, loss: Tensor, leaves: list[Tensor], batch: Batch) -> list[Tensor]:
        # a rank's part of a global sum: summed over ranks, it is the gradient of the whole
        gradient = list(torch.autograd.grad(loss, leaves, materialize_grads=True))
        self.student_forward += passes_forward(batch, self.micro_batches)
        self.student_backward += batch.samples
        if self.reduce_sum is not None:
            self.reduce_sum(gradient)
        return gradient

    def _along(
        self,
        theta: list[Tensor],
        direction: list[Tensor],
        batch: Batch,
        base_terms: Mapping[str, Tensor] | None,
        trace: ForwardTrace,
    ) -> dict[str, Tensor]:
        terms_at = self._terms_at(batch, trace)
        if self.engine == "exact":
            with sdpa_kernel(SDPBackend.MATH):
                found = along_double_backward(terms_at, theta, direction)
            self.student_forward += passes_forward(batch, self.micro_batches)
            self.student_backward += 3 * batch.samples
        elif self.engine == "jvp":
            with sdpa_kernel(SDPBackend.MATH):
                found = along_forward_mode(terms_at, theta, direction)
            self.student_forward += batch.samples
        else:
            by_default = CENTRAL_RADIUS if base_terms is None else FORWARD_RADIUS
            radius = self.radius or (ADAMW_RADIUS if self.step == "adamw" else by_default)
            found = along_difference(terms_at, theta, direction, radius, base_terms)
        return {name: value.detach() for name, value in found.items()}

    def _terms_at(self, batch: Batch, trace: ForwardTrace) -> TermsAt:
        def terms_at(parameters: Sequence[Tensor]) -> dict[str, Tensor]:
            self.student_forward += batch.samples
            with trace.repeat(), autocast(self.device, self.terms_precision):
                outputs = self._run(parameters, batch)
            return self.terms(outputs, batch)

        return terms_at

    def _run(self, parameters: Sequence[Tensor], batch: Batch) -> Outputs:
        given = dict(zip(self._names, parameters, strict=True))
        if self._fixed:  # detached, so that no graph is built below the lowest parameter that moves
            all_parameters = dict(self.model.named_parameters())
            given |= {name: all_parameters[name].detach() for name in self._fixed}
        state = {f"model.{name}": tensor for name, tensor in given.items()}
        student = StudentPass(self.model)

        def run(part: Batch) -> Outputs:
            outputs: Outputs = torch.func.functional_call(student, state, (part, self.features, self.layer_features))
            return outputs

        return in_micro_batches(run, batch, self.micro_batches)

    @property
    def device(self) -> torch.device:
        """The student's."""
        return next(self.model.parameters()).device

    @property
    def _theta(self) -> list[Tensor]:
        return aliases(self.parameters)
