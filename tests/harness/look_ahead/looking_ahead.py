"""A student, batches and terms for tests of the look-ahead."""

import torch
from torch import nn

from harness.data.batch import Batch
from harness.look_ahead.look_ahead import LookAhead
from harness.loss_terms.logit_terms import TermInputs, compute_terms
from harness.models.build import build_model, run_model
from harness.models.evaluate import autocast
from harness.study.schema import ModelSpec
from strategies.base import TermShape

VOCABULARY = 50
CONFIG = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.2,  # an untrained head of the usual size gives gradients near zero
}
ENGINES = ["exact", "jvp", "fd"]


def student(classes=2, attention="sdpa", **config):
    spec = ModelSpec(config={**CONFIG, **config})
    model = build_model(spec, classes, seed=3, vocabulary=VOCABULARY, attention=attention)
    assert any(module.p > 0 for module in model.modules() if isinstance(module, nn.Dropout))
    return model


def make_batch(classes, rows, seed, teachers=1, length=9):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(4, VOCABULARY, (rows, length), generator=generator)
    mask = (torch.arange(length) < torch.randint(3, length + 1, (rows, 1), generator=generator)).long()
    return Batch(
        ids=torch.arange(rows),
        labels=torch.randint(0, classes, (rows,), generator=generator),
        inputs={"input_ids": tokens, "attention_mask": mask, "token_type_ids": torch.zeros_like(tokens)},
        teacher_logits=2 * torch.randn(teachers, rows, classes, generator=generator),
        teacher_features=None,
        global_rows=rows,
    )


def part(batch, rows):
    return Batch(
        ids=batch.ids[rows],
        labels=batch.labels[rows],
        inputs={name: tensor[rows] for name, tensor in batch.inputs.items()},
        teacher_logits=batch.teacher_logits[:, rows],
        teacher_features=None,
        global_rows=batch.global_rows,
    )


def terms_of(*names):
    def terms(outputs, batch):
        given = TermInputs(outputs.logits, batch.teacher_logits, batch.labels, TermShape(2.0), outputs.features)
        return compute_terms(names, given)

    return terms


TERMS = terms_of("ce", "kd")


def some_weights(rows, seed=5):
    lam = torch.rand(rows, generator=torch.Generator().manual_seed(seed))
    return {"ce": 1 - lam, "kd": lam}


def cosine(a, b):
    flat = [torch.cat([found[name].reshape(-1) for name in sorted(found)]).double() for found in (a, b)]
    return float(torch.cosine_similarity(*flat, dim=0))


def cosine_to_the_step(device, precision, engine, attention_dropout, **shape):
    """Whether a look-ahead repeats the dropout masks of the training step that it looks ahead from.

    Cosine of an engine's influences to < v, grad term > taken through the training step's own graph, dropout on.
    """
    model = student(attention_probs_dropout_prob=attention_dropout, **shape).to(device).train()
    parameters = list(model.parameters())
    batch, meta = make_batch(2, 16, 1).to(device), make_batch(2, 12, 2).to(device)
    torch.manual_seed(7)
    look_ahead = LookAhead(model, TERMS, engine, jvp_precision=precision)
    trace = look_ahead.new_trace()
    with trace.record(), autocast(device, precision):
        terms = TERMS(run_model(model, batch.inputs), batch)
    direction = look_ahead.meta_gradient_here(meta)

    def along(value):
        gradient = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
        return torch.stack([(g.detach() * v).sum() for g, v in zip(gradient, direction, strict=True)]).sum().cpu()

    own = {name: torch.stack([along(value) for value in values]) for name, values in terms.items()}
    base_terms = terms if engine == "fd" else None
    found = look_ahead.influence(batch, meta, 0.1, trace=trace, base_terms=base_terms)
    return cosine({name: values.cpu().float() for name, values in found.items()}, own)
