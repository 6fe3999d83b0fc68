"""Closed forms, limiting cases and independent computations for the fixed and per-sample weights among teachers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import Normalisation, resolve
from strategies.base import RoleView, Setup
from strategies.parts.several_teachers import TERMS
from strategies.several_teachers.ae_kd import RIDGE, shortest
from strategies.several_teachers.stacked_ensemble import log_odds
from tests.strategies.contexts import make, make_context, make_setup, weigh

SETUP = make_setup(teachers=3)
ALL = [
    "ae_kd",
    "best_single",
    "ca_mkd",
    "ebkd",
    "mmkd",
    "mtkd_rl",
    "random_single",
    "rl_kd",
    "stacked_ensemble",
    "uniform_ensemble",
    "weighted_ensemble",
]
WITHOUT_DRAWS = ["ae_kd", "best_single", "ca_mkd", "ebkd", "stacked_ensemble", "uniform_ensemble", "weighted_ensemble"]
PAPER_SUMS = {"ebkd": 2 / 3, "ca_mkd": 1 / 3, "ae_kd": 1.0, "mmkd": 1.0, "mtkd_rl": 3.0}
seeds = st.integers(0, 300)


def influence(weights: Any = None) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return {
        "ce": torch.randn(8, generator=generator),
        "kd_each": torch.randn(len(weights["kd_each"]), 8, generator=generator),
    }


def context_of(setup: Setup, seed: int = 0, **options: Any):
    def replay(ids: torch.Tensor | None) -> torch.Tensor:
        return torch.zeros(len(setup.meta.ids if ids is None else ids), setup.classes)

    return make_context(setup, terms=TERMS, seed=seed, influence=influence, replay=replay, **options)


def teacher_weights(name: str, context, setup: Setup = SETUP, **options: Any) -> torch.Tensor:
    """[teachers, batch], with sums of 1: kd_weight is taken away."""
    return weigh(make(name, setup, kd_weight=1.0, **options), context)["kd_each"]


def permuted_view(rows: RoleView, order: list[int]) -> RoleView:
    return replace(rows, teacher_logits=rows.teacher_logits[order])


@given(seeds, st.sampled_from(ALL), st.sampled_from([1, 2, 4]), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
@settings(max_examples=40)
def test_teachers_share_what_the_labels_leave(seed, name, teachers, kd_weight):
    setup = make_setup(teachers=teachers)
    weights = weigh(make(name, setup, kd_weight=kd_weight), context_of(setup, seed, step=10))
    torch.testing.assert_close(weights["ce"] + weights["kd_each"].sum(0), torch.ones(8))
    if name != "rl_kd":  # which may leave a sample to its label
        torch.testing.assert_close(weights["ce"], torch.full((8,), 1 - kd_weight))


@pytest.mark.parametrize("paper_scale", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_one_teacher_is_plain_distillation(name, paper_scale):
    setup = make_setup(teachers=1)
    options: dict[str, Any] = {"empty": "most_probable"} if name == "rl_kd" else {}
    if "paper_scale" in resolve(name).strategy.Settings.model_fields:
        options["paper_scale"] = paper_scale
    elif paper_scale:
        pytest.skip("the paper's scale is the default one")
    for step in range(12):
        weights = weigh(make(name, setup, kd_weight=0.3, **options), context_of(setup, step, step=step))
        torch.testing.assert_close(weights["ce"], torch.full((8,), 0.7 * (1 + paper_scale)))
        torch.testing.assert_close(weights["kd_each"], torch.full((1, 8), 0.3 * (1 + paper_scale)))


@pytest.mark.parametrize("name", PAPER_SUMS)
def test_the_papers_scale(name):
    weights = weigh(make(name, SETUP, paper_scale=True), context_of(SETUP))
    torch.testing.assert_close(weights["ce"], torch.ones(8))
    torch.testing.assert_close(weights["kd_each"].sum(0), torch.full((8,), PAPER_SUMS[name]))
    promises = [resolve(name).normalisation(resolve(name).settings({"paper_scale": value})) for value in (False, True)]
    assert promises == [Normalisation.CONVEX, Normalisation.ADDITIVE]
    plain = weigh(make(name, SETUP), context_of(SETUP))["kd_each"]
    torch.testing.assert_close(weights["kd_each"], 2 * PAPER_SUMS[name] * plain)


@given(seeds, st.sampled_from(WITHOUT_DRAWS), st.permutations([0, 1, 2]))
@settings(max_examples=25)
def test_permuting_teachers_permutes_weights(seed, name, order):
    context = context_of(SETUP, seed)
    other = replace(
        SETUP,
        fit=permuted_view(SETUP.fit, order),
        meta=permuted_view(SETUP.meta, order),
        teachers=tuple(SETUP.teachers[k] for k in order),
    )
    moved = replace(context, teacher_logits=context.teacher_logits[order])
    torch.testing.assert_close(teacher_weights(name, moved, other), teacher_weights(name, context)[order], atol=1e-4, rtol=1e-3)


def test_random_single_draws_every_teacher_equally_often_and_one_at_a_time():
    setup = make_setup(teachers=3, rows=3000)
    weights = teacher_weights("random_single", make_context(setup, terms=TERMS, batch=3000), setup)
    assert set(weights.flatten().tolist()) == {0.0, 1.0}
    np.testing.assert_allclose(weights.mean(1), 1 / 3, atol=0.04)  # four standard errors
    context = context_of(SETUP)
    first = teacher_weights("random_single", context)
    assert not torch.equal(first, teacher_weights("random_single", context))
    assert torch.equal(first, teacher_weights("random_single", context_of(SETUP)))


def test_random_single_per_batch_is_the_papers_one_teacher_for_all():
    draws = [teacher_weights("random_single", context_of(SETUP, seed), per="batch") for seed in range(60)]
    assert all(torch.equal(weights, weights[:, :1].expand_as(weights)) for weights in draws)
    assert all(sorted(weights[:, 0].tolist()) == [0.0, 0.0, 1.0] for weights in draws)
    assert {int(weights[:, 0].argmax()) for weights in draws} == {0, 1, 2}


def test_best_single_takes_the_teacher_with_the_highest_label_probability():
    context = context_of(SETUP, 3)
    probability = context.teacher_logits.softmax(-1)[:, torch.arange(8), context.labels]
    assert torch.equal(teacher_weights("best_single", context).argmax(0), probability.argmax(0))
    tied = replace(context, teacher_logits=context.teacher_logits[[0, 1, 0]])
    weights = teacher_weights("best_single", tied)
    assert torch.equal(weights[0], weights[2])
    assert set(weights.flatten().tolist()) <= {0.0, 0.5, 1.0}


def test_best_single_of_the_task_is_the_most_accurate_on_the_meta_set():
    meta = SETUP.meta
    right = torch.nn.functional.one_hot(meta.labels, 3).float()
    wrong = right.roll(1, -1)
    half = torch.where(torch.arange(len(meta.ids)).unsqueeze(-1) % 2 == 0, right, wrong)
    # the most accurate one is the least confident where it is right and far off where it is wrong
    most = torch.where(torch.arange(len(meta.ids)).unsqueeze(-1) % 4 > 0, 0.1 * right, 50 * wrong)
    setup = replace(SETUP, meta=replace(meta, teacher_logits=torch.stack([5 * half, most, 5 * half])))
    assert resolve("best_single").needs(resolve("best_single").settings({"per": "task"})).meta_set
    weights = teacher_weights("best_single", context_of(SETUP), setup, per="task")
    assert torch.equal(weights, torch.tensor([[0.0], [1.0], [0.0]]).expand(3, 8))
    # of equally accurate ones, the lower cross-entropy
    setup = replace(SETUP, meta=replace(meta, teacher_logits=torch.stack([half, 0.1 * half, 9 * half])))
    assert teacher_weights("best_single", context_of(SETUP), setup, per="task")[:, 0].tolist() == [1.0, 0.0, 0.0]


def test_weighted_ensemble_by_accuracy_and_by_given_weights():
    accuracy = (SETUP.meta.teacher_logits.argmax(-1) == SETUP.meta.labels).double().mean(-1)
    expected = np.exp(accuracy.numpy() / 0.05)
    weights = teacher_weights("weighted_ensemble", context_of(SETUP), accuracy_temperature=0.05)
    np.testing.assert_allclose(weights[:, 0], expected / expected.sum(), rtol=1e-5)
    given_weights = {"teacher0": 1.0, "teacher1": 0.0, "teacher2": 3.0}
    weights = teacher_weights("weighted_ensemble", context_of(SETUP), teacher_weights=given_weights)
    assert weights[:, 0].tolist() == [0.25, 0.0, 0.75]
    with pytest.raises(ValueError, match="teacher0, teacher1, teacher2"):
        make("weighted_ensemble", SETUP, teacher_weights={"teacher0": 1.0})


def test_stacked_ensemble_finds_the_teachers_that_the_labels_follow():
    """Labels drawn from softmax(log-odds of teacher 0 + half those of teacher 1); teacher 2 is noise."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.zeros(3, 20_000, 2)
    logits[:, :, 1] = torch.randn(3, 20_000, generator=generator)
    labels = torch.bernoulli((logits[0, :, 1] + 0.5 * logits[1, :, 1]).sigmoid(), generator=generator).long()
    rows = RoleView(torch.arange(20_000), labels, logits)
    setup = replace(make_setup(classes=2, teachers=3), meta=rows)
    weights = teacher_weights("stacked_ensemble", context_of(setup), setup)[:, 0]
    np.testing.assert_allclose(weights, [2 / 3, 1 / 3, 0], atol=0.03)
    contrary = replace(setup, meta=replace(rows, labels=1 - labels, teacher_logits=logits[[0, 0, 0]]))
    np.testing.assert_allclose(teacher_weights("stacked_ensemble", context_of(setup), contrary), 1 / 3)


def test_log_odds_stay_finite():
    odds = log_odds(torch.tensor([[200.0, -200.0], [0.0, 0.0]]))
    assert odds.tolist() == [[400.0, -400.0], [0.0, 0.0]]
    p = torch.tensor([0.2, 0.3, 0.5])
    torch.testing.assert_close(log_odds(p.log()), torch.logit(p))


def test_ebkd_by_hand():
    p = torch.tensor([[[0.5, 0.5, 0.0]], [[1 / 3, 1 / 3, 1 / 3]], [[1.0, 0.0, 0.0]]])
    logits = p.clamp_min(1e-30).log().expand(3, 8, 3)
    context = replace(context_of(SETUP), teacher_logits=logits)
    total = math.log(2) + math.log(3)
    expected = [(1 - math.log(2) / total) / 2, (1 - math.log(3) / total) / 2, 0.5]
    np.testing.assert_allclose(teacher_weights("ebkd", context)[:, 0], expected, rtol=1e-5)
    certain = replace(context, teacher_logits=logits[[2, 2, 2]] * 10)
    np.testing.assert_allclose(teacher_weights("ebkd", certain), 1 / 3, rtol=1e-6)


@given(seeds)
@settings(max_examples=10)
def test_ca_mkd_by_hand(seed):
    context = context_of(SETUP, seed)
    label = context.teacher_logits.double().softmax(-1)[:, torch.arange(8), context.labels]
    odds = 1 / label  # exp(cross-entropy)
    expected = (1 - odds / odds.sum(0)) / 2
    torch.testing.assert_close(teacher_weights("ca_mkd", context).double(), expected, atol=1e-5, rtol=1e-4)


@given(
    seeds, st.integers(1, 6), st.sampled_from([0.3, 0.6, 0.8, 1.0]), st.sampled_from([1, 4]), st.sampled_from([1e-4, 1.0, 1e3])
)
@settings(max_examples=40)
def test_the_shortest_combination_is_optimal(seed, n, tolerance, dimension, scale):
    """Moving weight from one teacher to another, as far as bounds let it, makes nothing shorter (the conditions of Kuhn and
    Tucker); in one dimension too, where gradients point the same or the opposite way."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n, dimension, generator=generator).double()
    weights = shortest(scale**2 * vectors @ vectors.T, tolerance)
    bound = max(tolerance, 1 / n)
    assert float(weights.sum()) == pytest.approx(1)
    assert float(weights.max()) <= bound + 1e-6
    gramian = vectors @ vectors.T
    slope = (gramian / gramian.max() + RIDGE * torch.eye(n)) @ weights
    takes, gives = slope[weights < bound - 1e-5], slope[weights > 1e-5]
    if len(takes):
        assert float(gives.max() - takes.min()) < 1e-4


@given(seeds)
@settings(max_examples=10)
def test_the_shortest_combination_of_two_is_mgdas_closed_form(seed):
    one, two = torch.randn(2, 4, generator=torch.Generator().manual_seed(seed)).double()
    expected = ((two - one) @ two / (one - two).square().sum()).clamp(0, 1)
    vectors = torch.stack([one, two])
    torch.testing.assert_close(shortest(vectors @ vectors.T, 1.0)[0], expected, atol=1e-3, rtol=0)


@given(seeds, st.sampled_from([3, 4, 5]), st.booleans())
@settings(max_examples=15)
def test_ae_kd_is_the_authors_support_vector_machine(seed, teachers, normalise):
    """`find_optimal_svm` typed out: scikit-learn's one-class machine, nu = 1 / (C M), on mean gradients without a norm."""
    from sklearn.svm import OneClassSVM

    setup = make_setup(classes=6, teachers=teachers)
    context = context_of(setup, seed)
    student = (context.student_logits / 2).softmax(-1)
    gradients = (student - (context.teacher_logits / 2).softmax(-1)).mean(1).double()
    norm = gradients.norm(dim=1, keepdim=True)
    vectors = gradients / norm if normalise else gradients / norm.mean()  # of length about 1: the solver stops at 1e-6
    machine = OneClassSVM(kernel="precomputed", nu=max(1 / (0.6 * teachers), 1 / teachers), tol=1e-9)
    machine.fit((vectors @ vectors.T).numpy())
    expected = np.zeros(teachers)
    expected[machine.support_] = machine.dual_coef_[0] * 0.6
    if normalise:
        expected /= norm.squeeze(1).numpy()
        expected /= expected.sum()
    found = teacher_weights("ae_kd", context, setup, normalise=normalise)[:, 0]
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_ae_kd_weighs_the_dissenting_teacher_up_to_its_bound():
    """Two teachers agree and one is opposite: the shortest combination balances them, half against half."""
    context = context_of(SETUP)
    context = replace(context, student_logits=torch.zeros(8, 3))
    one = torch.tensor([1.0, 0.0, -1.0]).expand(8, 3)
    context = replace(context, teacher_logits=torch.stack([one, one, one.flip(-1)]))
    for gradient in ("batch", "mean"):
        weights = teacher_weights("ae_kd", context, tolerance=0.6, gradient=gradient)[:, 0]
        # softmax(x) - 1/3 and its mirror image have cosine c, so the weights are not exactly 1/2; they are by symmetry
        np.testing.assert_allclose(weights, [0.25, 0.25, 0.5], atol=1e-3)
    np.testing.assert_allclose(teacher_weights("ae_kd", context, tolerance=0.2)[:, 0], 1 / 3, atol=1e-6)


@pytest.mark.parametrize("name", ["ebkd", "ca_mkd", "best_single", "random_single", "mtkd_rl"])
def test_the_controls_take_samples_and_leave_teachers(name):
    context = context_of(SETUP, 5)
    plain = teacher_weights(name, context_of(SETUP, 5))
    shuffled = teacher_weights(f"shuffled({name})", context)
    for k in range(3):
        torch.testing.assert_close(shuffled[k].sort().values, plain[k].sort().values)
    columns = sorted(map(tuple, plain.T.tolist()))
    np.testing.assert_allclose(sorted(map(tuple, shuffled.T.tolist())), columns, rtol=1e-6)
    mean = teacher_weights(f"batch_mean({name})", context_of(SETUP, 5))
    torch.testing.assert_close(mean, plain.mean(1, keepdim=True).expand(3, 8))
