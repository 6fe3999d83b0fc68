import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from harness.look_ahead.look_ahead import LookAhead
from harness.models.build import run_model
from tests.harness.look_ahead.looking_ahead import ENGINES, TERMS, cosine, make_batch, part, some_weights, student, terms_of

LOGGER = logging.getLogger(__name__)  # `--log-cli-level=INFO` shows the measured cosines


def test_the_forms_differ_where_the_step_is_long():
    model = student()
    batch, meta = make_batch(2, 16, 1), make_batch(2, 12, 2)
    exact = LookAhead(model, TERMS, "exact")
    assert cosine(exact.influence(batch, meta, 0.1, some_weights(16)), exact.influence(batch, meta, 0.1, None)) < 0.999


@pytest.mark.parametrize("engine", ENGINES)
def test_a_meta_learner_s_gradient_needs_no_second_order_graph(engine):
    """d L_meta / d phi = -eta / B * sum a[m, i] * d w[m, i] / d phi, for weights from a small network."""
    model = student(attention="eager").double()
    batch, meta, eta = make_batch(2, 8, 1), make_batch(2, 6, 2), 0.3
    model.eval()
    with torch.no_grad():
        features = torch.stack(list(TERMS(run_model(model, batch.inputs), batch).values()), 1)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 10), nn.ReLU(), nn.Linear(10, 2), nn.Softmax(1)).double()

    def weigh():
        return dict(zip(("ce", "kd"), network(features).T, strict=True))

    # literally, with one graph from the meta loss to phi
    parameters = dict(model.named_parameters())
    terms = TERMS(run_model(model, batch.inputs), batch)
    inner = sum((weigh()[name] * value).mean() for name, value in terms.items())
    gradient = torch.autograd.grad(inner, list(parameters.values()), create_graph=True, materialize_grads=True)
    fast = {name: p - eta * g for (name, p), g in zip(parameters.items(), gradient, strict=True)}
    outer = F.cross_entropy(torch.func.functional_call(model, fast, kwargs=meta.inputs).logits, meta.labels)
    expected = torch.autograd.grad(outer, list(network.parameters()))

    found = LookAhead(model, TERMS, engine).influence(
        batch, meta, eta, {name: weight.detach() for name, weight in weigh().items()}
    )
    through = sum((found[name] * weight).sum() for name, weight in weigh().items()) * (-eta / 8)
    tolerance = 1e-4 if engine == "fd" else 1e-9
    for ours, theirs in zip(torch.autograd.grad(through, list(network.parameters())), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * float(theirs.abs().max()))


class SumOf:
    """A `reduce_sum` for ranks that run one after another: it records in a first round and answers in a second."""

    def __init__(self):
        self.recorded = {}
        self.call = 0
        self.rank = 0

    def start(self, rank):
        self.rank, self.call = rank, 0

    def __call__(self, tensors):
        seen = self.recorded.setdefault(self.call, {})
        seen[self.rank] = [tensor.clone() for tensor in tensors]
        for k, tensor in enumerate(tensors):
            tensor.copy_(sum(parts[k] for parts in seen.values()))
        self.call += 1


@pytest.mark.parametrize("form", ["per sample", "network"])
@pytest.mark.parametrize("engine", ENGINES)
def test_two_ranks_equal_one(engine, form):
    model = student(attention="eager").double()
    batch, meta = make_batch(2, 9, 1), make_batch(2, 7, 2)
    weights = {name: w.double() for name, w in some_weights(9).items()} if form == "network" else None
    whole = LookAhead(model, TERMS, engine).influence(batch, meta, 0.1, weights)

    both = SumOf()
    ranks = [(slice(0, 5), slice(0, 3)), (slice(5, 9), slice(3, 7))]
    look_ahead = LookAhead(model, TERMS, engine, reduce_sum=both)
    # a later sum depends on an earlier one: as many rounds as there are sums, and one in which all of them are right
    for _ in range(3):
        parts = []
        for rank, (rows, meta_rows) in enumerate(ranks):
            both.start(rank)
            local = None if weights is None else {name: w[rows] for name, w in weights.items()}
            parts.append(look_ahead.influence(part(batch, rows), part(meta, meta_rows), 0.1, local))
    assert both.call == (2 if weights else 1)
    for name in whole:
        joined = torch.cat([found[name] for found in parts])
        # a difference quotient is also sensitive to how rows are grouped into matrix products
        torch.testing.assert_close(joined, whole[name], atol=1e-7 if engine == "fd" else 1e-11, rtol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("training", [True, False])
def test_the_student_and_the_generators_stay_as_they_were(engine, training):
    model = student().train(training)
    model.bert.encoder.layer[0].train(not training)
    modes = [module.training for module in model.modules()]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    pointers = [p.data_ptr() for p in model.parameters()]
    # a training step is under way: its graph must stay usable, and gradients stay as they are
    batch, meta = make_batch(2, 8, 1), make_batch(2, 6, 2)
    loss = TERMS(run_model(model, batch.inputs), batch)["ce"].mean()
    for index, p in enumerate(model.parameters()):
        p.grad = torch.full_like(p, 7.0) if index % 2 else None
    state = torch.get_rng_state()

    LookAhead(model, TERMS, engine).influence(batch, meta, 0.1, some_weights(8))

    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert [p.data_ptr() for p in model.parameters()] == pointers
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.requires_grad for p in model.parameters())
    for index, p in enumerate(model.parameters()):
        assert (p.grad == 7.0).all() if index % 2 else p.grad is None
    model.zero_grad()
    loss.backward()


@pytest.mark.parametrize("engine", ENGINES)
def test_dropout_plays_no_part(engine):
    model = student().train()
    look_ahead = LookAhead(model, TERMS, engine)
    batch, meta = make_batch(2, 8, 1), make_batch(2, 6, 2)
    first = look_ahead.influence(batch, meta, 0.1, some_weights(8))
    second = look_ahead.influence(batch, meta, 0.1, some_weights(8))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_known_gradient_and_known_terms_spare_passes():
    model = student()
    batch, meta, weights = make_batch(2, 16, 1), make_batch(2, 12, 2), some_weights(16)
    exact = LookAhead(model, TERMS, "exact").influence(batch, meta, 0.1, weights)
    look_ahead = LookAhead(model, TERMS, "fd", radius=3e-4)
    model.eval()
    terms = TERMS(run_model(model, batch.inputs), batch)
    loss = sum((weights[name] * value).mean() for name, value in terms.items())
    gradient = torch.autograd.grad(loss, look_ahead.parameters, materialize_grads=True)
    found = look_ahead.influence(batch, meta, 0.1, weights, train_gradient=gradient, base_terms=terms)
    assert (look_ahead.student_forward, look_ahead.student_backward) == (12 + 16, 12)
    assert cosine(found, exact) >= 0.9999
    assert all(not value.requires_grad for value in found.values())


@pytest.mark.parametrize(
    ("engine", "weighted", "forward", "backward"),
    [
        ("fd", False, 12 + 2 * 16, 12),
        ("fd", True, 16 + 12 + 2 * 16, 16 + 12),
        ("jvp", False, 12 + 2 * 16, 12),
        ("exact", False, 12 + 16, 12 + 3 * 16),
    ],
)
def test_passes_are_counted(engine, weighted, forward, backward):
    look_ahead = LookAhead(student(), TERMS, engine)
    look_ahead.influence(make_batch(2, 16, 1), make_batch(2, 12, 2), 0.1, some_weights(16) if weighted else None)
    assert (look_ahead.student_forward, look_ahead.student_backward) == (forward, backward)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_that_is_not_taken(engine):
    model = student()
    batch, meta, weights = make_batch(2, 16, 1), make_batch(2, 12, 2), some_weights(16)
    look_ahead = LookAhead(model, TERMS, engine, shortest_step=0.1)
    longest = max(float(weight.max()) for weight in weights.values())
    at_theta = LookAhead(model, TERMS, engine).influence(batch, meta, 0.1, None)
    found = look_ahead.influence(batch, meta, 0.0999 / longest, weights)
    assert all(torch.equal(found[name], at_theta[name]) for name in found)
    taken = look_ahead.influence(batch, meta, 0.1001 / longest, weights)
    assert cosine(taken, at_theta) < 0.9999
    # where another rank has the largest weight, this one takes the step with it: all of them sum gradients, or none
    elsewhere = look_ahead.influence(batch, meta, 0.0999 / longest, weights, largest=1.01 * longest)
    assert cosine(elsewhere, taken) > 0.9999
    assert cosine(elsewhere, at_theta) < 0.9999
    # at a learning rate of fine-tuning it hardly matters
    assert cosine(found, LookAhead(model, TERMS, "exact").influence(batch, meta, 5e-5, weights)) >= 0.9999


@pytest.mark.parametrize("engine", ["jvp", "fd"])
def test_only_the_upper_layers_move(engine):
    model = student()
    batch, meta, weights = make_batch(2, 16, 1), make_batch(2, 12, 2), some_weights(16)
    upper = LookAhead(model, TERMS, "exact", layers=1)
    named = {name for name, p in model.named_parameters() if any(p is q for q in upper.parameters)}
    assert named == {name for name, _ in model.named_parameters() if ".layer.0." not in name and "embeddings" not in name}
    exact = upper.influence(batch, meta, 0.1, weights)
    found = LookAhead(model, TERMS, engine, layers=1).influence(batch, meta, 0.1, weights)
    assert cosine(found, exact) >= 0.9999
    whole = LookAhead(model, TERMS, "exact").influence(batch, meta, 0.1, weights)
    LOGGER.info("cosine of the last of two layers to both: %.4f", cosine(found, whole))
    assert 0.5 < cosine(found, whole) < 0.9999


def test_the_whole_of_all_layers_leaves_out_the_embeddings_alone():
    model = student()
    moved = LookAhead(model, TERMS, "fd", layers=2).parameters
    fixed = [p for p in model.parameters() if not any(p is q for q in moved)]
    assert {id(p) for p in fixed} == {id(p) for p in model.bert.embeddings.parameters()}


@pytest.mark.parametrize("layers", [0, 3])
def test_layers_that_do_not_exist(layers):
    with pytest.raises(ValueError, match="has 2"):
        LookAhead(student(), TERMS, "fd", layers=layers)


@pytest.mark.parametrize("engine", ENGINES)
def test_preconditioning_replaces_the_direction(engine):
    model = student()
    batch, meta = make_batch(2, 8, 1), make_batch(2, 6, 2)
    plain = LookAhead(model, TERMS, engine).influence(batch, meta, 0.1)
    doubled = LookAhead(model, TERMS, engine, precondition=lambda gs: [2 * g for g in gs]).influence(batch, meta, 0.1)
    for name in plain:
        torch.testing.assert_close(doubled[name], 2 * plain[name], rtol=1e-2, atol=1e-3 * float(plain[name].abs().max()))
    nothing = LookAhead(model, TERMS, engine, precondition=lambda gs: [0 * g for g in gs]).influence(batch, meta, 0.1)
    assert all((value == 0).all() for value in nothing.values())


def test_mistakes_are_named():
    model, batch = student(), make_batch(2, 4, 1)
    with pytest.raises(ValueError, match="weights for"):
        LookAhead(model, TERMS, "fd").influence(batch, batch, 0.1, {"ce": 1.0})
    with pytest.raises(ValueError, match="meta_kd_weight needs"):
        LookAhead(model, terms_of("ce"), "fd", meta_kd_weight=1.0).influence(batch, batch, 0.1)
    with pytest.raises(ValueError, match="engine 'newton'"):
        LookAhead(model, TERMS, "newton")
    with pytest.raises(ValueError, match="radius"):
        LookAhead(model, TERMS, "fd", radius=0.0)


@pytest.mark.parametrize("engine", ENGINES)
def test_products_are_in_full_precision_whatever_the_training_s(engine):
    """A GPU's TF32 has 10 bits: `fd` would see its rounding, in its own passes or in terms that it is given."""
    model = student()
    batch, meta = make_batch(2, 16, 1), make_batch(2, 12, 2)
    seen = []
    model.register_forward_hook(lambda *_: seen.append(torch.get_float32_matmul_precision()))
    look_ahead = LookAhead(model, TERMS, engine)
    expected = look_ahead.influence(batch, meta, 0.1, some_weights(16))
    model.eval()
    with torch.no_grad():
        exact = TERMS(run_model(model, batch.inputs), batch)
    rounded = {name: values * (1 + 2**-11) for name, values in exact.items()}
    seen.clear()
    torch.set_float32_matmul_precision("high")
    try:
        found = look_ahead.influence(batch, meta, 0.1, some_weights(16), base_terms=rounded)
        direction = look_ahead.meta_gradient_here(meta)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(seen) == {"highest"}
    assert len(direction) == len(look_ahead.parameters)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values)
