"""Strategies that choose or mix divergences: the authors' formulas, typed out; and what is left of them with two classes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from strategies import TermShape, resolve
from tests.strategies.contexts import loss_terms, make, make_context, make_setup, weigh

CLASSES = [2, 3, 6]


def context_of(name, setup, **options):
    """A context with the strategy's terms, at the temperatures and with the options that it asks for."""
    strategy = make(name, setup, **options)
    needs = strategy.needs(strategy.settings)
    bare = make_context(setup, step=7)
    terms = loss_terms(needs.terms, bare, strategy.shape_terms(replace(bare, terms={})), needs.term_options)
    return strategy, replace(bare, terms=terms)


def total(name, setup, **options):
    """(the loss, the context): mean over samples of the weighted terms."""
    strategy, context = context_of(name, setup, **options)
    weights = weigh(strategy, context)
    return sum((weights[term] * context.terms[term]).mean() for term in context.terms), context


def probabilities(context, temperature):
    return ((logits / temperature).softmax(-1) for logits in (context.student_logits, context.teacher_logits[0]))


def kl(p, q):
    return (p * (p / q).log()).sum(-1)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("mu", [0.3, 0.5, 0.9])
def test_akl_is_the_authors(classes, mu):
    """`get_ratio` and `AKL` of the authors: the head in a loop over the sorted classes."""
    loss, context = total("akl", make_setup(classes=classes), kd_weight=1.0, head_mass=mu)
    expected = []
    for q, p in zip(*probabilities(context, 2.0), strict=True):
        head = tail = mass = 0.0
        for place, c in enumerate(sorted(range(classes), key=lambda c: -p[c])):
            mass += float(p[c])
            if place == 0 or mass <= mu:
                head += abs(float(p[c] - q[c]))
            else:
                tail += abs(float(p[c] - q[c]))
        expected.append(4 * (head / (head + tail) * kl(p, q) + tail / (head + tail) * kl(q, p)))
    torch.testing.assert_close(loss, torch.stack(expected).mean(), rtol=1e-4, atol=1e-5)


def test_akl_weighs_samples_with_more_classes_and_not_with_two():
    for classes, spread in ((2, False), (3, True), (6, True), (20, True)):
        strategy, context = context_of("akl", make_setup(classes=classes))
        shares = strategy.head_share(context)
        assert (float(shares.std()) > 0.05) == spread
        if not spread:
            torch.testing.assert_close(shares, torch.full_like(shares, 0.5))


def test_akl_of_a_student_that_is_the_teacher_halves():
    setup = make_setup(classes=4)
    context = make_context(setup)
    same = replace(context, student_logits=context.teacher_logits[0])
    torch.testing.assert_close(make("akl", setup).head_share(same), torch.full((8,), 0.5))


@pytest.mark.parametrize("classes", CLASSES)
def test_todi_is_the_authors(classes):
    """`compute_ToDi` and the loss around it, with T^2: (1 - kd_rate) ce + kd_rate sum_c [...]."""
    loss, context = total("todi", make_setup(classes=classes))
    q, p = probabilities(context, 2.0)
    weight_p, weight_q = torch.sigmoid(p.log() - q.log()), torch.sigmoid(q.log() - p.log())
    divergence = (weight_p * p * (p.log() - q.log()) + weight_q * q * (q.log() - p.log())).sum(-1)
    ce = F.cross_entropy(context.student_logits, context.labels)
    torch.testing.assert_close(loss, 0.5 * ce + 0.5 * 4 * divergence.mean())


def gradient(name, setup, student, context):
    """Of the weighted terms to the student's logits, [batch, classes]: of a strategy's, or of the term `kd`."""
    leaf = student.clone().requires_grad_()
    context = replace(context, student_logits=leaf.detach())
    strategy = make(name, setup, kd_weight=1.0) if name != "kd" else None
    needs = ("kd",) if strategy is None else strategy.needs(strategy.settings).terms
    terms = loss_terms(needs, replace(context, student_logits=leaf), TermShape(2.0))
    weights = {"kd": 1.0} if strategy is None else strategy.weights(context)
    return torch.autograd.grad(sum((weights[term] * terms[term]).sum() for term in needs), leaf)[0]


@pytest.mark.parametrize(("name", "factor"), [("akl", 1.0), ("todi", 1.5)])
@pytest.mark.parametrize("classes", [2, 6])
def test_near_agreement_they_pull_as_forward_kl(name, factor, classes):
    setup = make_setup(classes=classes)
    context = make_context(setup)
    context = replace(context, teacher_logits=context.teacher_logits.double())
    direction = torch.randn(8, classes, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    near = context.teacher_logits[0] + 1e-4 * direction
    plain = gradient("kd", setup, near, context)
    torch.testing.assert_close(gradient(name, setup, near, context), factor * plain, rtol=1e-2, atol=1e-9)


@pytest.mark.parametrize("name", ["akl", "todi"])
def test_with_two_classes_they_are_forward_kl_of_another_strength(name):
    """With more classes they pull elsewhere, too."""
    for classes, parallel in ((2, True), (3, False), (6, False), (20, False)):
        setup = make_setup(classes=classes)
        context = make_context(setup)
        found, plain = (gradient(one, setup, context.student_logits, context) for one in (name, "kd"))
        cosines = F.cosine_similarity(found, plain, dim=-1)
        assert (float(cosines.min()) > 0.999) == parallel


def test_abkd_is_the_authors_at_their_temperature():
    """32 D at T = 4 without T^2, as `train_ab.sh 1.1 1.1 0.8 0.8 resnet56 resnet20 0 32`."""
    loss, context = total("abkd", make_setup(classes=6, temperature=4.0))
    q, p = probabilities(context, 4.0)
    a, b = 0.8, 1.1 - 0.8
    divergence = -(p**a * q**b - a / (a + b) * p ** (a + b) - b / (a + b) * q ** (a + b)).sum(-1) / (a * b)
    ce = F.cross_entropy(context.student_logits, context.labels)
    torch.testing.assert_close(loss, ce + 32 * divergence.mean())


@pytest.mark.parametrize("classes", CLASSES)
def test_eopd_adds_forward_kl_where_the_teacher_is_unsure(classes):
    loss, context = total(
        "eopd", make_setup(classes=classes), ce_weight=0.0, kd_weight=1.0, forward_weight=0.7, entropy_share=0.4
    )
    q, p = probabilities(context, 2.0)
    teacher = context.teacher_logits[0].softmax(-1)
    unsure = -(teacher * teacher.log()).sum(-1) >= 0.4 * math.log(classes)
    assert 0 < unsure.sum() < len(unsure)
    torch.testing.assert_close(loss, 4 * (kl(q, p) + 0.7 * unsure * kl(p, q)).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("classes", CLASSES)
def test_wttm_is_the_authors(classes):
    """`WTTM.forward`: mean(norm * KL) of the power transform, times beta, beside cross-entropy."""
    loss, context = total("wttm", make_setup(classes=classes))
    p_t = context.teacher_logits[0].softmax(1) ** 0.2
    norm = p_t.sum(1)
    p_t = p_t / norm.unsqueeze(1)
    divergence = F.kl_div(context.student_logits.log_softmax(1), p_t, reduction="none").sum(1)
    ce = F.cross_entropy(context.student_logits, context.labels)
    torch.testing.assert_close(loss, ce + 4.0 * (norm * divergence).mean())


def test_wttm_weighs_an_unsure_teacher_more_between_1_and_its_bound():
    setup = make_setup(classes=6)
    logits = torch.zeros(1, 3, 6)
    logits[0, :, 0] = torch.tensor([0.0, 3.0, 60.0])
    context = make_context(setup, batch=3)
    context = replace(context, teacher_logits=logits)
    context = replace(context, terms=loss_terms(("ce", "transformed_teacher"), context, TermShape(5.0)))
    weights = weigh(make("wttm", setup, kd_weight=1.0), context)["transformed_teacher"]
    torch.testing.assert_close(weights[[0, 2]], torch.tensor([6**0.8, 1.0]), rtol=1e-3, atol=1e-3)
    assert weights[0] > weights[1] > weights[2]


@pytest.mark.parametrize("epoch", [0, 1, 10, 20, 240])
def test_dtkd_warms_up_as_the_authors_do(epoch):
    setup = make_setup(classes=6)
    context = replace(make_context(setup), progress=epoch / 240)
    rise = min(epoch / 20, 1.0)
    expected = {"ce": 1.0, "kd": pytest.approx(rise), "dynamic_temperature_kd": pytest.approx(3 * rise)}
    assert make("dtkd", setup).weights(context) == expected
    assert resolve("dtkd").strategy.warm_up(make("dtkd", setup).settings, 240) == pytest.approx(20)


class TestTaid:
    def test_the_share_rises_as_the_authors_does(self):
        """`TAID.update_t`, typed out, on losses that fall, with an adaptive part that leads the line for some steps."""
        setup = make_setup(classes=6, epochs=10, steps_per_epoch=10)
        strategy = make("taid", setup, adaptive_rate=0.05, average_keep=0.5)
        t, previous, momentum, led = 0.4, None, 0.0, 0
        for step in range(100):
            context = replace(make_context(setup), step=step, progress=step / 100)
            assert strategy.shape_terms(context).teacher_share == pytest.approx(t)
            loss = 2.0 * math.exp(-step / 30) + 0.1 * math.sin(step)
            strategy.after_step(replace(context, terms={"ce": torch.ones(8), "interpolated_ce": torch.full((8,), loss)}))
            if previous is not None:
                momentum = 0.5 * momentum + 0.5 * (previous - loss) / (previous + 1e-15)
                line = 0.4 + (1.0 - 0.4) * step / 100
                ahead = t + 0.05 / (1 + math.exp(-momentum)) * (1 - t)
                led += ahead > line
                t = min(1.0, max(line, ahead))
            previous = loss
        assert 10 < led < 100
        assert t > 0.99

    def test_it_never_falls_and_goes_on_from_a_saved_state(self):
        setup = make_setup()
        strategy, again = make("taid", setup), make("taid", setup)
        shares = []
        for step in range(8):
            context = make_context(setup, step=step, terms=("ce", "interpolated_ce"))
            shares.append(strategy.shape_terms(context).teacher_share)
            strategy.after_step(context)
        assert shares == sorted(shares)
        again.load_state_dict(strategy.state_dict())
        assert again.shape_terms(context) == strategy.shape_terms(context)
        assert again.state_dict() == strategy.state_dict()


class TestBetaKd:
    def test_beta_follows_the_gradient_of_equation_15(self):
        """Against Adam on the whole objective: ce + beta kd - K / 2 log beta."""
        setup = make_setup(classes=6)
        strategy = make("beta_kd", setup, learning_rate=0.1)
        log_beta = torch.zeros((), requires_grad=True)
        optimizer = torch.optim.Adam([log_beta], lr=0.1)
        for step in range(20):
            context = make_context(setup, step=step)
            beta = log_beta.exp()
            torch.testing.assert_close(strategy.weights(context)["kd"], beta.detach())
            optimizer.zero_grad()
            (context.terms["ce"].mean() + beta * context.terms["kd"].mean() - 6 / 2 * beta.log()).backward()
            optimizer.step()
        assert abs(float(log_beta.detach())) > 0.1

    def test_it_tends_to_the_closed_form(self):
        """K / (2 kd) on a batch that stays."""
        setup = make_setup(classes=3)
        strategy = make("beta_kd", setup, learning_rate=0.1)
        context = make_context(setup)
        for _ in range(400):
            beta = strategy.weights(context)["kd"]
        assert float(beta) == pytest.approx(3 / 2 / float(context.terms["kd"].mean()), rel=1e-2)
