"""The three ways to the look-ahead's derivative, against each other, the literal look-ahead and a numerical derivative."""

import itertools
import logging
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from harness.look_ahead.look_ahead import LookAhead
from harness.models.build import build_model, run_model
from harness.models.evaluate import autocast
from harness.models.forward_trace import ForwardTrace
from harness.study.schema import ModelSpec
from tests.harness.look_ahead.looking_ahead import (
    CONFIG,
    ENGINES,
    TERMS,
    VOCABULARY,
    cosine,
    make_batch,
    some_weights,
    student,
    terms_of,
)

LOGGER = logging.getLogger(__name__)  # `--log-cli-level=INFO` shows the measured cosines


def literal(model, batch, meta, eta, weights, meta_kd_weight=0.0):
    """d L_meta(theta - eta * grad of the weighted loss) / d weights, back-propagated through the look-ahead as it is."""
    model.eval()
    named = dict(model.named_parameters())
    leaves = {name: w.clone().requires_grad_() for name, w in weights.items()}
    terms = TERMS(run_model(model, batch.inputs), batch)
    inner = sum((leaves[name] * value).mean() for name, value in terms.items())
    gradient = torch.autograd.grad(inner, list(named.values()), create_graph=True, materialize_grads=True)
    fast = {name: p - eta * g for (name, p), g in zip(named.items(), gradient, strict=True)}
    logits = torch.func.functional_call(model, fast, kwargs=meta.inputs).logits
    outer = F.cross_entropy(logits, meta.labels)
    if meta_kd_weight:
        soft = [(z / 2.0).softmax(-1) for z in (meta.teacher_logits[0], logits)]
        outer = outer + meta_kd_weight * 4 * (soft[0] * (soft[0].log() - soft[1].log())).sum(-1).mean()
    found = torch.autograd.grad(outer, list(leaves.values()))
    return dict(zip(leaves, found, strict=True))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("form", ["per sample", "network"])
@pytest.mark.parametrize("engine", ["jvp", "fd"])
def test_engines_agree_with_exact_in_float32(engine, form, classes):
    model = student(classes)
    batch, meta = make_batch(classes, 16, 1), make_batch(classes, 12, 2)
    weights = some_weights(16) if form == "network" else None
    exact = LookAhead(model, TERMS, "exact").influence(batch, meta, 0.1, weights)
    found = LookAhead(model, TERMS, engine).influence(batch, meta, 0.1, weights)
    assert {name: value.shape for name, value in found.items()} == {"ce": (16,), "kd": (16,)}
    assert all(value.dtype == torch.float32 and not value.requires_grad for value in found.values())
    LOGGER.info("cosine to exact of %s, %s form, %d classes: %.8f", engine, form, classes, cosine(found, exact))
    assert cosine(found, exact) >= 0.9999
    for name in exact:
        torch.testing.assert_close(found[name], exact[name], atol=2e-3 * float(exact[name].abs().max()), rtol=2e-2)


@pytest.mark.parametrize("meta_kd_weight", [0.0, 1.0])
@pytest.mark.parametrize("eta", [0.3, 1e-3])
def test_exact_is_the_literal_look_ahead(eta, meta_kd_weight):
    model = student(attention="eager").double()
    batch, meta = make_batch(2, 8, 1), make_batch(2, 6, 2)
    meta = replace(meta, teacher_logits=meta.teacher_logits.double())
    weights = {name: w.double() for name, w in some_weights(8).items()}
    found = LookAhead(model, TERMS, "exact", meta_kd_weight=meta_kd_weight).influence(batch, meta, eta, weights)
    expected = literal(model, batch, meta, eta, weights, meta_kd_weight)
    for name in weights:
        torch.testing.assert_close(-eta / 8 * found[name], expected[name], atol=1e-12, rtol=1e-8)


@pytest.mark.parametrize("form", ["per sample", "network"])
def test_exact_against_a_numerical_derivative_of_the_real_look_ahead(form):
    """Central differences, in float64, of L_meta(theta - eta * grad(sum w l / rows)) in single weights."""
    model = student().double().eval()
    batch, meta, eta, h = make_batch(2, 6, 1), make_batch(2, 5, 2), 0.3, 1e-4
    weights = {name: w.double() for name, w in some_weights(6).items()}
    if form == "per sample":  # the step starts at theta: weights of zero
        weights = {name: torch.zeros_like(w) for name, w in weights.items()}
    parameters = dict(model.named_parameters())

    def meta_loss(w):
        terms = TERMS(run_model(model, batch.inputs), batch)
        inner = sum((w[name] * value).mean() for name, value in terms.items())
        gradient = torch.autograd.grad(inner, list(parameters.values()), materialize_grads=True)
        fast = {name: (p - eta * g).detach() for (name, p), g in zip(parameters.items(), gradient, strict=True)}
        with torch.no_grad():
            return float(F.cross_entropy(torch.func.functional_call(model, fast, kwargs=meta.inputs).logits, meta.labels))

    found = LookAhead(model, TERMS, "exact").influence(batch, meta, eta, weights if form == "network" else None)
    for name, i in itertools.product(weights, (0, 2, 5)):
        moved = []
        for sign in (1, -1):
            w = {key: value.clone() for key, value in weights.items()}
            w[name][i] += sign * h
            moved.append(meta_loss(w))
        numerical = (moved[0] - moved[1]) / (2 * h)
        assert -eta / 6 * float(found[name][i]) == pytest.approx(numerical, rel=1e-5, abs=1e-10)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_takes_both_kinds_of_attention(engine):
    batch, meta = make_batch(2, 16, 1), make_batch(2, 12, 2)
    exact = LookAhead(student(attention="eager"), TERMS, "exact").influence(batch, meta, 0.1, some_weights(16))
    fused = LookAhead(student(attention="sdpa"), TERMS, engine).influence(batch, meta, 0.1, some_weights(16))
    assert cosine(fused, exact) >= 0.9999


@pytest.mark.parametrize("engine", ENGINES)
def test_terms_per_teacher_and_features(engine):
    model = student()
    batch, meta = make_batch(2, 6, 1, teachers=3), make_batch(2, 5, 2, teachers=3)

    def terms(outputs, batch):
        found = terms_of("kd_each")(outputs, batch)
        return {**found, "size": outputs.features.square().mean(-1)}

    weights = {"kd_each": torch.rand(3, 6), "size": 0.1}
    found = LookAhead(model, terms, engine, features=True, meta_kd_weight=0.5).influence(batch, meta, 0.1, weights)
    assert {name: value.shape for name, value in found.items()} == {"kd_each": (3, 6), "size": (6,)}
    exact = LookAhead(model, terms, "exact", features=True, meta_kd_weight=0.5).influence(batch, meta, 0.1, weights)
    assert cosine(found, exact) >= 0.9999


@pytest.mark.parametrize("kind", ["roberta", "distilbert"])
@pytest.mark.parametrize("engine", ["jvp", "fd"])
def test_other_encoders(kind, engine):
    config = {**CONFIG, "model_type": kind}
    if kind == "distilbert":
        config = {"model_type": kind, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "initializer_range": 0.2}
    model = build_model(ModelSpec(config=config), 2, seed=3, vocabulary=VOCABULARY, attention="eager")
    batch, meta = make_batch(2, 12, 1), make_batch(2, 12, 2)
    exact = LookAhead(model, TERMS, "exact").influence(batch, meta, 0.1, some_weights(12))
    found = LookAhead(model, TERMS, engine).influence(batch, meta, 0.1, some_weights(12))
    assert cosine(found, exact) >= 0.9999


def test_forward_mode_in_half_precision_keeps_the_direction_and_the_step_s_dropout():
    model, device = student(hidden_dropout_prob=0.3).train(), torch.device("cpu")
    batch, meta, weights = make_batch(2, 64, 1), make_batch(2, 48, 2), some_weights(64)

    def influence(precision, traced=True):
        torch.manual_seed(5)
        trace = ForwardTrace(model)
        with trace.record(), autocast(device, precision):
            run_model(model, batch.inputs)
        look_ahead = LookAhead(model, TERMS, "jvp", meta_precision=precision, jvp_precision=precision)
        return look_ahead.influence(batch, meta, 1e-3, weights, trace=trace if traced else None)

    exact = influence("fp32")
    assert cosine(influence("bf16"), exact) > 0.99
    assert cosine(influence("bf16", traced=False), exact) < 0.98
