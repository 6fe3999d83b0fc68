from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from strategies import TermShape, resolve
from tests.strategies.contexts import loss_terms, make, make_context, make_setup, weigh

SETUP = make_setup()
BINARY = make_setup(classes=2)
seeds = st.integers(0, 500)


def with_teacher(probabilities: list[list[float]], labels: list[int], setup=SETUP, student=None):
    """A context whose teacher (and student) say exactly these probabilities."""
    context = make_context(setup, batch=len(labels))
    logits = torch.tensor(probabilities).log()
    student_logits = context.student_logits if student is None else torch.tensor(student).log()
    return make_context(
        setup, batch=len(labels), labels=torch.tensor(labels), teacher_logits=logits.unsqueeze(0), student_logits=student_logits
    )


def kd(name, context, setup=SETUP, **settings):
    return weigh(make(name, setup, **settings), context)["kd"]


def numpy_entropy(logits: torch.Tensor, temperature: float = 1.0) -> np.ndarray:
    z = np.exp(logits.double().numpy() / temperature)
    p = z / z.sum(-1, keepdims=True)
    return -(p * np.log(p)).sum(-1)


def test_ada_alpha_is_the_teachers_margin():
    context = with_teacher([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [1 / 3, 1 / 3, 1 / 3]], [0, 0, 1])
    torch.testing.assert_close(kd("ada_alpha", context), torch.tensor([0.7, 0.0, 0.0]))


@given(seeds)
def test_teacher_entropy_against_numpy(seed):
    context = make_context(SETUP, seed=seed)
    expected = 0.8 * (1 - numpy_entropy(context.teacher_logits[0], 2.0) / math.log(3))
    found = kd("teacher_entropy", context, kd_weight=0.8, entropy_temperature=2.0)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_teacher_entropy_at_its_ends():
    context = with_teacher([[1 / 3] * 3, [1 - 2e-9, 1e-9, 1e-9]], [0, 0])
    torch.testing.assert_close(kd("teacher_entropy", context), torch.tensor([0.0, 1.0]), atol=1e-6, rtol=0)


def test_teacher_confidence_is_a_power_of_the_labels_probability():
    context = with_teacher([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]], [0, 1])
    torch.testing.assert_close(
        kd("teacher_confidence", context, kd_weight=0.5, gamma=2.0), torch.tensor([0.5 * 0.25, 0.5 * 0.04])
    )
    torch.testing.assert_close(kd("teacher_confidence", context, kd_weight=0.5, gamma=0.0), torch.full((2,), 0.5))


def test_gates_open_where_the_teacher_is_right():
    context = with_teacher([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]], [0, 1])
    torch.testing.assert_close(kd("correctness_gate", context, kd_weight=0.7), torch.tensor([0.7, 0.0]))
    weights = weigh(make("mcd", SETUP), context)
    torch.testing.assert_close(weights["kd"], torch.tensor([12.0, 1.0]))
    torch.testing.assert_close(weights["ce"], torch.tensor([1.0, 2.0]))


@given(seeds)
def test_student_uncertainty_against_numpy(seed):
    """`uncertainty` and `uncertainty-r` in the authors' models/student.py: weight on the logits 1 - H / log K, or H / log K."""
    context = make_context(SETUP, seed=seed)
    entropy = numpy_entropy(context.student_logits) / math.log(3)
    certain = kd("student_uncertainty", context, kd_weight=3.0)
    uncertain = kd("student_uncertainty", context, kd_weight=3.0, more_kd_when="uncertain")
    np.testing.assert_allclose(certain.numpy(), 3 * (1 - entropy), atol=1e-5)
    np.testing.assert_allclose(uncertain.numpy(), 3 * entropy, atol=1e-5)


@given(seeds)
def test_ea_kd_against_numpy(seed):
    context = make_context(SETUP, seed=seed)
    teacher, student = numpy_entropy(context.teacher_logits[0], 3.0), numpy_entropy(context.student_logits, 3.0)
    expected = (teacher + teacher * student / math.log(3)) / 2
    np.testing.assert_allclose(kd("ea_kd", context).numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(kd("ea_kd", context, relative=True).numpy(), expected / math.log(3), atol=1e-5)


def test_ea_kd_of_two_uniform_distributions_is_the_largest_weight():
    context = with_teacher([[1 / 3] * 3], [0], student=[[1 / 3] * 3])
    assert float(kd("ea_kd", context)) == pytest.approx(math.log(3))
    assert float(kd("ea_kd", context, relative=True)) == pytest.approx(1.0)


@given(seeds, st.sampled_from([0.5, 1.0, 2.0, 4.0]), st.sampled_from(["both", "ce", "kd"]))
def test_focal_has_the_gradient_of_the_loss_with_its_factor(seed, gamma, apply_to):
    """Focal loss typed out and differentiated, against the gradient of the terms under constant weights."""
    context = make_context(SETUP, seed=seed)
    weights = weigh(make("focal", SETUP, kd_weight=0.3, gamma=gamma, apply_to=apply_to), context)
    logits = context.student_logits.double().requires_grad_()
    context = replace(context, student_logits=logits, teacher_logits=context.teacher_logits.double())
    terms = loss_terms(("ce", "kd"), context, TermShape(2.0))
    p = logits.softmax(-1)[torch.arange(8), context.labels]
    factor = (1 - p) ** gamma
    loss = 0.7 * (factor if apply_to != "kd" else 1) * terms["ce"] + 0.3 * (factor if apply_to != "ce" else 1) * terms["kd"]
    (expected,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
    (found,) = torch.autograd.grad((weights["ce"] * terms["ce"] + weights["kd"] * terms["kd"]).sum(), logits)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_focal_weights_by_hand():
    context = with_teacher([[0.5, 0.25, 0.25]] * 2, [0, 1], student=[[0.8, 0.1, 0.1], [0.8, 0.1, 0.1]])
    weights = weigh(make("focal", SETUP, kd_weight=0.25), context)
    p, factor = torch.tensor([0.8, 0.1]), torch.tensor([0.04, 0.81])
    through_ce, through_kd = (2 * p * (1 - p) * term for term in (-p.log(), context.terms["kd"]))
    torch.testing.assert_close(weights["kd"], 0.25 * factor)
    torch.testing.assert_close(weights["ce"], 0.75 * (factor + through_ce) + 0.25 * through_kd)
    only_ce = weigh(make("focal", SETUP, kd_weight=0.25, apply_to="ce"), context)
    torch.testing.assert_close(only_ce["kd"], torch.full((2,), 0.25))
    torch.testing.assert_close(only_ce["ce"], 0.75 * (factor + through_ce))
    plain = weigh(make("focal", SETUP, kd_weight=0.25, gamma=0.0), context)
    torch.testing.assert_close(plain["kd"], torch.full((2,), 0.25))


class TestSelfPaced:
    context = replace(make_context(SETUP), terms={"ce": torch.arange(8.0), "kd": torch.arange(8.0)})

    def test_starts_with_the_easy_half_and_ends_with_all(self):
        strategy = make("self_paced", SETUP, all_from=0.8)
        at = {p: weigh(strategy, replace(self.context, progress=p))["kd"] for p in (0.0, 0.4, 0.8, 1.0)}
        assert at[0.0].tolist() == [0.5] * 4 + [0.0] * 4
        assert at[0.4].tolist() == [0.5] * 6 + [0.0] * 2
        assert at[0.8].tolist() == at[1.0].tolist() == [0.5] * 8

    def test_soft_form_falls_linearly_to_the_threshold(self):
        strategy = make("self_paced", SETUP, form="soft", start_share=1.0, kd_weight=1.0)
        torch.testing.assert_close(weigh(strategy, self.context)["kd"], 1 - torch.arange(8.0) / 7)

    def test_the_gate_may_be_on_the_kd_term_alone(self):
        weights = weigh(make("self_paced", SETUP, apply_to="kd"), self.context)
        assert weights["ce"].tolist() == [0.5] * 8
        assert weights["kd"].tolist() == [0.5] * 4 + [0.0] * 4

    def test_the_loss_that_gates_is_the_mixture(self):
        context = replace(self.context, terms={"ce": torch.arange(8.0), "kd": torch.arange(8.0).flip(0) * 2})
        hard_for_ce = weigh(make("self_paced", SETUP, kd_weight=0.0), context)["ce"]
        hard_for_kd = weigh(make("self_paced", SETUP, kd_weight=1.0), context)["kd"]
        assert hard_for_ce.tolist() == hard_for_kd.flip(0).tolist()


@pytest.mark.parametrize("quantile", [0.25, 0.5])
def test_lud_sends_the_surest_rows_to_the_teacher(quantile):
    context = make_context(SETUP, rows=torch.arange(48))
    weights = kd("lud", context, quantile=quantile)
    sure = SETUP.fit.teacher_logits[0].softmax(-1).max(-1).values
    assert weights.mean() == pytest.approx(1 - quantile, abs=0.03)
    assert sure[weights == 1].min() > sure[weights == 0].max()


@given(seeds, st.sampled_from(["teacher_entropy", "ea_kd", "lud"]))
def test_with_two_classes_entropy_and_confidence_weights_sort_alike(seed, name):
    """The softened binary teacher is one number a sample (methods 3.10): a property to know when reading tables."""
    context = make_context(BINARY, seed=seed, batch=16)
    if name == "ea_kd":  # the student's part aside
        context = replace(context, student_logits=torch.zeros_like(context.student_logits))
    confidence = context.teacher_logits[0].softmax(-1).max(-1).values
    by_confidence = kd(name, context, BINARY)[confidence.argsort()]
    steps = by_confidence.diff()
    assert (steps <= 1e-6).all() if name == "ea_kd" else (steps >= -1e-6).all()


class TestAnnealingKd:
    def at(self, progress):
        return replace(make_context(SETUP, terms=("ce", "mse_logits")), progress=progress)

    def test_phases(self):
        strategy = make("annealing_kd", SETUP, regression_share=0.75)
        assert strategy.weights(self.at(0.0)) == {"ce": 0.0, "mse_logits": 1.0}
        assert strategy.weights(self.at(0.74)) == {"ce": 0.0, "mse_logits": 1.0}
        assert strategy.weights(self.at(0.75)) == {"ce": 1.0, "mse_logits": 0.0}

    def test_the_teachers_scale_rises_to_one(self):
        strategy = make("annealing_kd", SETUP, regression_share=0.5, levels=4)
        scales = [strategy.shape_terms(self.at(p)).teacher_scale for p in (0.0, 0.13, 0.26, 0.38, 0.5, 1.0)]
        assert scales == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_equal_sum_is_twice_the_even_mixture():
    context = make_context(SETUP)
    even = weigh(make("fixed_alpha", SETUP), context)
    assert all((w == 2 * even[name]).all() for name, w in weigh(make("equal_sum", SETUP), context).items())


WSL_SETUP = make_setup()


def test_equal_losses_give_one_minus_one_over_e():
    context = make_context(WSL_SETUP)
    context = replace(context, student_logits=context.teacher_logits[0].clone())
    weights = weigh(make("wsl", WSL_SETUP, kd_weight=2.0), context)
    torch.testing.assert_close(weights["kd"], torch.full((8,), 2 * (1 - math.exp(-1))))
    torch.testing.assert_close(weights["ce"], torch.ones(8))


def test_a_student_that_beats_the_teacher_gets_little_distillation():
    context = make_context(WSL_SETUP)
    one_hot = torch.nn.functional.one_hot(context.labels, 3).float()
    sure, unsure = replace(context, student_logits=20 * one_hot), replace(context, student_logits=-20 * one_hot)
    assert weigh(make("wsl", WSL_SETUP), sure)["kd"].max() < 1e-3
    assert weigh(make("wsl", WSL_SETUP), unsure)["kd"].min() > 2.4


@pytest.mark.parametrize("name", ["wsl", "wsl_convex"])
def test_the_weight_by_hand(name):
    """One sample, two classes: ce of the student log 4, of the teacher log 2."""
    context = replace(
        make_context(WSL_SETUP, batch=1),
        labels=torch.tensor([0]),
        student_logits=torch.tensor([[0.0, math.log(3.0)]]),
        teacher_logits=torch.zeros(1, 1, 2),
    )
    share = 1 - math.exp(-math.log(4) / math.log(2))
    weights = weigh(make(name, WSL_SETUP), context)
    if name == "wsl":
        assert (float(weights["ce"]), float(weights["kd"])) == pytest.approx((1.0, 2.5 * share))
    else:
        assert (float(weights["ce"]), float(weights["kd"])) == pytest.approx((1 - share, share))


class TestDaKd:
    """Algorithm 1, eq. 1 to 4 and the counts of table 3 of the paper."""

    @pytest.mark.parametrize("schedule", ["cosine", "linear"])
    def test_as_many_rows_as_the_authors_saw(self, schedule):
        """1,963 iterations in the place of 3,570, with ten epochs and the cosine."""
        strategy = make("da_kd", make_setup(epochs=10), schedule=schedule)
        shares = [strategy.share(epoch) for epoch in range(10)]
        assert shares[0] == 1.0
        assert shares == sorted(shares, reverse=True)
        assert 3570 * np.mean(shares) == pytest.approx(1963, abs=1)
        assert shares[7] == pytest.approx((1 + math.cos(0.7 * math.pi)) / 2 if schedule == "cosine" else 0.3)

    @staticmethod
    def trained(setup, **settings):
        """(the strategy, and in each epoch the rows that weigh something and the scores of all rows)."""
        strategy = make("da_kd", setup, **settings)
        found = []
        for step in range(setup.total_steps):
            student = 2 * torch.randn(len(setup.fit.ids), setup.classes, generator=torch.Generator().manual_seed(step))
            of = dict(zip(setup.fit.ids.tolist(), student, strict=True))
            context = make_context(
                setup, terms=("ce", "kd"), step=step, replay=lambda ids, of=of: torch.stack([of[i] for i in ids.tolist()])
            )
            strategy.after_step(context)
            if (step + 1) % setup.steps_per_epoch == 0:
                both = (student, setup.fit.teacher_logits[0])
                ours, theirs = (F.cross_entropy(logits, setup.fit.labels, reduction="none") for logits in both)
                found.append((strategy.weight[setup.fit.ids].clone(), ours / theirs))
        return strategy, found

    def test_the_hardest_rows_and_some_of_the_others_are_selected(self):
        setup = make_setup(rows=200, epochs=5, steps_per_epoch=3)
        _, found = self.trained(setup)
        for epoch, (weight, score) in enumerate(found[:-1], 1):
            n = round(200 * (1 + math.cos(math.pi * epoch / 5)) / 2)
            easy = min(round(0.1 * n), 200 - n)
            hardest = set(score.argsort(descending=True)[:n].tolist())
            selected = set(weight.nonzero().flatten().tolist())
            assert (len(selected & hardest), len(selected - hardest)) == (n - easy, easy)
            torch.testing.assert_close(weight[sorted(selected)], torch.full((n,), 200 / n))
            assert selected & hardest != set(score.argsort(descending=True)[: n - easy].tolist())  # drawn, not the very hardest

    def test_nothing_changes_within_an_epoch_and_all_count_in_the_first(self):
        setup = make_setup()
        strategy = make("da_kd", setup, kd_weight=0.7)
        context = make_context(setup, terms=("ce", "kd"))
        strategy.after_step(replace(context, step=0))  # would fail if it asked for a replay
        weights = strategy.weights(context)
        torch.testing.assert_close(weights["ce"], torch.full((8,), 0.3))
        torch.testing.assert_close(weights["bidirectional_kl"], torch.full((8,), 0.7))

    @pytest.mark.parametrize("classes", [2, 6])
    def test_the_loss_is_equation_4_on_the_selected_rows(self, classes):
        setup = make_setup(classes=classes, temperature=1.0)
        strategy, _ = self.trained(setup)
        context = make_context(setup, rows=torch.arange(48))
        options = strategy.needs(strategy.settings).term_options
        context = replace(context, terms=loss_terms(("ce", "bidirectional_kl"), context, TermShape(1.0), options))
        weights = weigh(strategy, context)
        loss = sum((weights[name] * context.terms[name]).mean() for name in context.terms)
        selected = strategy.weight[context.ids] > 0
        assert 0 < selected.sum() < 48
        q, p = context.student_logits[selected].softmax(-1), context.teacher_logits[0][selected].softmax(-1)
        mixed, other = 0.1 * p + 0.9 * q, 0.9 * p + 0.1 * q
        torch.testing.assert_close(loss, (mixed * (mixed / other).log()).sum(-1).mean())

    def test_a_teacher_without_any_loss_makes_rows_hard_and_a_student_without_any_easy(self):
        setup = make_setup(rows=6, epochs=2, steps_per_epoch=1)
        right = 200.0 * F.one_hot(setup.fit.labels, 3).float()
        teacher = torch.zeros(6, 3)
        teacher[:3] = right[:3]  # cross-entropy exactly 0 on three rows
        setup = replace(setup, fit=replace(setup.fit, teacher_logits=teacher[None]))
        strategy = make("da_kd", setup, easy_share=0.0)
        student = torch.zeros(6, 3)
        student[5] = right[5]
        strategy.after_step(make_context(setup, replay=lambda ids: student))
        assert strategy.weight[setup.fit.ids].tolist() == [2.0, 2.0, 2.0, 0.0, 0.0, 0.0]

    def test_a_divergence_that_is_always_nought_is_refused(self):
        found = resolve("da_kd")
        assert "is 0" in str(found.refuses(found.settings({"mixing": 0.5}), 3))
        assert found.refuses(found.settings(), 3) is None
