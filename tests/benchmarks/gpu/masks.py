"""Whether a look-ahead repeats the dropout masks of the training step that it looks ahead from."""

from __future__ import annotations

from typing import Any

import torch

from harness.look_ahead.look_ahead import LookAhead
from harness.models.build import run_model
from harness.models.evaluate import autocast
from tests.harness.look_ahead.looking_ahead import TERMS, cosine, make_batch, student


def cosine_to_the_step(device: torch.device, precision: str, engine: str, attention_dropout: float, **shape: Any) -> float:
    """Cosine of an engine's influences to < v, grad term > taken through the training step's own graph, dropout on."""
    model = student(attention_probs_dropout_prob=attention_dropout, **shape).to(device).train()
    parameters = list(model.parameters())
    batch, meta = make_batch(2, 16, 1).to(device), make_batch(2, 12, 2).to(device)
    torch.manual_seed(7)
    look_ahead = LookAhead(model, TERMS, engine, jvp_precision=precision)
    trace = look_ahead.new_trace()
    with trace.record(), autocast(device, precision):
        terms = TERMS(run_model(model, batch.inputs), batch)
    direction = look_ahead.meta_gradient_here(meta)

    def along(value: torch.Tensor) -> torch.Tensor:
        gradient = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
        return torch.stack([(g.detach() * v).sum() for g, v in zip(gradient, direction, strict=True)]).sum().cpu()

    own = {name: torch.stack([along(value) for value in values]) for name, values in terms.items()}
    base_terms = terms if engine == "fd" else None
    found = look_ahead.influence(batch, meta, 0.1, trace=trace, base_terms=base_terms)
    return cosine({name: values.cpu().float() for name, values in found.items()}, own)
