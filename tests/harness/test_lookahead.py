import itertools
import logging
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from harness.data.batch import Batch
from harness.lookahead import LookAhead
from harness.models import build_model, run_model
from harness.study import ModelSpec
from harness.terms import TermInputs, compute_terms
from strategies.base import TermShape

LOGGER = logging.getLogger(__name__)  # `--log-cli-level=INFO` shows the measured cosines
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
    return float(F.cosine_similarity(*flat, dim=0))


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


def test_the_forms_differ_where_the_step_is_long():
    model = student()
    batch, meta = make_batch(2, 16, 1), make_batch(2, 12, 2)
    exact = LookAhead(model, TERMS, "exact")
    assert cosine(exact.influence(batch, meta, 0.1, some_weights(16)), exact.influence(batch, meta, 0.1, None)) < 0.999


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
def test_a_meta_learner_s_gradient_needs_no_second_order_graph(engine):
    """methods.md 1.5b: d L_meta / d phi = -eta / B * sum a[m, i] * d w[m, i] / d phi, for weights from a small network."""
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


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_takes_both_kinds_of_attention(engine):
    batch, meta = make_batch(2, 16, 1), make_batch(2, 12, 2)
    exact = LookAhead(student(attention="eager"), TERMS, "exact").influence(batch, meta, 0.1, some_weights(16))
    fused = LookAhead(student(attention="sdpa"), TERMS, engine).influence(batch, meta, 0.1, some_weights(16))
    assert cosine(fused, exact) >= 0.9999


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
