"""Passes that repeat a training step's: its dropout masks, and its hidden states below the layers that move."""

import pytest
import torch

from harness.look_ahead.look_ahead import LookAhead
from harness.models.build import run_model
from harness.models.forward_trace import ForwardTrace
from harness.models.student_pass import in_micro_batches
from tests.harness.look_ahead.looking_ahead import TERMS, cosine, make_batch, part, some_weights, student

ENGINES = ["exact", "jvp", "fd"]
KINDS = [
    {},
    {"model_type": "roberta"},
    {"model_type": "distilbert", "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
]


def traced_step(model, batch, layers=None):
    """A training step's pass, dropout on: its trace and its terms."""
    model.train()
    torch.manual_seed(7)
    trace = ForwardTrace(model, layers)
    with trace.record():
        outputs = run_model(model, batch.inputs)
    return trace, TERMS(outputs, batch)


@pytest.mark.parametrize("config", KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("layers", [None, 1, 2])
def test_a_repeated_pass_gives_the_same_numbers(config, attention, layers):
    model, batch = student(attention=attention, **config), make_batch(2, 8, 1)
    trace, terms = traced_step(model, batch, layers)
    state = torch.get_rng_state()
    model.eval()
    for _ in range(2):
        with trace.modes(), trace.repeat(), torch.no_grad():
            again = TERMS(run_model(model, batch.inputs), batch)
        assert all(torch.equal(again[name], terms[name]) for name in terms)
    assert not any(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    undropped = TERMS(run_model(model, batch.inputs), batch)
    assert not torch.equal(undropped["ce"], terms["ce"])


@pytest.mark.parametrize("config", KINDS)
@pytest.mark.parametrize("layers", [None, 1])
def test_engines_agree_on_the_step_s_own_dropout_masks(config, layers):
    # rows that finite differences do not take over a kink: DistilBERT has a ReLU before its classifier
    model, batch, meta = student(**config), make_batch(2, 16, 3), make_batch(2, 12, 4)
    trace, terms = traced_step(model, batch, layers)
    exact, jvp, central, forward = (
        LookAhead(model, TERMS, engine, layers=layers).influence(
            batch, meta, 0.1, some_weights(16), trace=trace, base_terms=base
        )
        for engine, base in (("exact", None), ("jvp", None), ("fd", None), ("fd", terms))
    )
    assert model.training
    for found in (jvp, central, forward):
        assert cosine(found, exact) >= 0.9999
    without = LookAhead(model, TERMS, "exact", layers=layers).influence(batch, meta, 0.1, some_weights(16))
    assert cosine(without, exact) < 0.999


@pytest.mark.parametrize("given", [True, False])
def test_lower_layers_are_not_run_again(given):
    model, batch, meta = student(), make_batch(2, 8, 1), make_batch(2, 6, 2)
    trace, terms = traced_step(model, batch, 1)
    calls = []
    model.bert.embeddings.word_embeddings.register_forward_hook(lambda *_: calls.append("words"))
    model.bert.encoder.layer[1].register_forward_hook(lambda *_: calls.append("top"))
    look_ahead = LookAhead(model, TERMS, "fd", layers=1)
    look_ahead.influence(batch, meta, 0.1, trace=trace if given else None, base_terms=terms if given else None)
    # given: the meta batch, and the upper layers at one point; else the first of two passes is a whole one
    assert calls == (["words", "top", "top"] if given else ["words", "top", "words", "top", "top"])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layers", [None, 1])
def test_a_step_in_micro_batches_has_one_trace(engine, layers):
    """The masks are those of the parts, one after another, on the way back too."""
    model, batch, meta, weights = student(), make_batch(2, 8, 1), make_batch(2, 6, 2), some_weights(8)
    found = []
    for given in (True, False):
        look_ahead = LookAhead(model, TERMS, engine, layers=layers)
        look_ahead.micro_batches = 2
        model.train()
        torch.manual_seed(3)
        trace = look_ahead.new_trace()
        with trace.record():
            outputs = in_micro_batches(lambda rows: run_model(model, rows.inputs), batch, 2)
        base = TERMS(outputs, batch) if given else None
        found.append(look_ahead.influence(batch, meta, 0.1, weights, trace=trace, base_terms=base))
    exact = LookAhead(model, TERMS, "exact", layers=layers)
    torch.manual_seed(3)
    halves = []
    for half in (slice(0, 4), slice(4, 8)):  # by hand; without the step, which needs both halves
        trace = ForwardTrace(model, layers)
        with trace.record():
            run_model(model, part(batch, half).inputs)
        halves.append(exact.influence(part(batch, half), meta, 0.1, trace=trace))
    expected = {name: torch.cat([one[name] for one in halves]) for name in halves[0]}
    unstepped = LookAhead(model, TERMS, engine, layers=layers, shortest_step=1.0)
    unstepped.micro_batches = 2
    torch.manual_seed(3)
    trace = unstepped.new_trace()
    with trace.record():
        in_micro_batches(lambda rows: run_model(model, rows.inputs), batch, 2)
    assert cosine(unstepped.influence(batch, meta, 0.1, weights, trace=trace), expected) >= 0.9999
    assert cosine(*found) >= 0.9999


@pytest.mark.parametrize("config", KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("engine", ["fd", "exact"])
def test_a_pass_in_full_precision_has_the_masks_of_a_step_in_half(config, attention, engine):
    """Influences in full precision are those of the step's own graph, up to bf16's rounding."""
    dropped = {"attention_dropout": 0.3, "dropout": 0.3, "attention_probs_dropout_prob": 0.3, "hidden_dropout_prob": 0.3}
    model, batch, meta = student(attention=attention, **dropped, **config), make_batch(2, 16, 3), make_batch(2, 12, 4)
    look_ahead = LookAhead(model, TERMS, engine)
    model.train()
    trace = look_ahead.new_trace(masks_alone=True)
    with trace.record(), torch.autocast("cpu", torch.bfloat16):
        terms = TERMS(run_model(model, batch.inputs), batch)
    direction = look_ahead.meta_gradient_here(meta)

    def along(value):
        gradient = torch.autograd.grad(value, look_ahead.parameters, retain_graph=True, materialize_grads=True)
        return sum((g * v).sum() for g, v in zip(gradient, direction, strict=True))

    own = {name: torch.stack([along(value) for value in values]) for name, values in terms.items()}
    with_masks = look_ahead.influence(batch, meta, 0.1, trace=trace)
    model.eval()
    without = look_ahead.influence(batch, meta, 0.1)
    assert cosine(with_masks, own) > 0.99
    assert cosine(without, own) < 0.98
