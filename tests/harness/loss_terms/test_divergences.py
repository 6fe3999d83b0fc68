"""The terms that compare two distributions over the classes: what holds for all of them, and each against its formula."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from hypothesis import given, note, settings
from hypothesis import strategies as st

from harness.loss_terms import losses
from harness.loss_terms.logit_terms import TermInputs
from harness.loss_terms.registry import needs_of_terms, registered_terms, term_options
from harness.ranks import Single
from strategies.base import Needs, TermShape

DIVERGENCES: dict[str, dict[str, Any]] = {
    "reverse_kl": {},
    "jensen_shannon": {},
    "skew_kl": {},
    "skew_reverse_kl": {},
    "bidirectional_kl": {},
    "alpha_beta": {"alpha": 0.8, "beta": 0.3},
    "total_variation": {},
    "dist_inter": {},
    "dist_intra": {},
    "todi_kl": {},
    "dynamic_temperature_kd": {},
}
"""Zero at equality. `transformed_teacher` is zero where the student is the softened teacher, the cross-entropies nowhere."""
ALL: dict[str, dict[str, Any]] = {**DIVERGENCES, "transformed_teacher": {}, "soft_label_ce": {}, "interpolated_ce": {}}
CLASSES = [2, 3, 6, 20]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def value(name: str, student: torch.Tensor, teachers: torch.Tensor, temperature: Any = 2.0, **options: Any) -> torch.Tensor:
    """student [batch, classes], teachers [teachers, batch, classes] or [batch, classes] -> [batch]."""
    teachers = teachers if teachers.dim() == 3 else teachers[None]
    inputs = TermInputs(student, teachers, torch.zeros(len(student), dtype=torch.int64), TermShape(temperature))
    made = registered_terms()[name](term_options(name, {**ALL[name], **options}), cast(Any, None))
    return made(inputs)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("name", DIVERGENCES)
def test_zero_at_equality_and_above_it_elsewhere(name, classes):
    """Equality of distributions: a number added to all logits of a sample is no difference."""
    logits = normal(7, classes)
    same = logits + torch.arange(7.0)[:, None]
    torch.testing.assert_close(value(name, logits, same), torch.zeros(7, dtype=torch.float64), atol=1e-9, rtol=0)
    found = value(name, logits, normal(7, classes, seed=1))
    assert (found >= -1e-9).all()
    assert found.sum() > 1e-2


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("name", sorted({*DIVERGENCES} - {"total_variation", "dist_intra"}))
def test_no_gradient_at_equality(name, classes):
    """Equality is the minimum. The total variation has a corner there."""
    student = normal(5, classes).requires_grad_()
    (gradient,) = torch.autograd.grad(value(name, student, student.detach().clone()).sum(), student)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", sorted({*ALL} - {"todi_kl", "interpolated_ce"}))
def test_the_gradient_is_that_of_differences(name):
    """The others hold a part of themselves still: their gradients are tested against the formula below."""
    student, teachers = normal(4, 5).requires_grad_(), normal(2, 4, 5, seed=1)
    assert torch.autograd.gradcheck(lambda s: value(name, s, teachers), (student,), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_classes_have_no_order_and_teachers_are_averaged(name):
    student, teachers = normal(6, 5), normal(3, 6, 5, seed=1)
    found = value(name, student, teachers)
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(value(name, student[:, order], teachers[..., order]), found)
    torch.testing.assert_close(torch.stack([value(name, student, one) for one in teachers]).mean(0), found)


@pytest.mark.parametrize("name", sorted({*ALL} - {"dist_intra"}))
def test_a_sample_s_value_is_its_own_and_so_is_its_temperature(name):
    student, teachers = normal(5, 4), normal(2, 5, 4, seed=1)
    temperatures = torch.tensor([1.0, 1.5, 2.0, 4.0, 8.0], dtype=torch.float64)
    found = value(name, student, teachers, temperatures)
    for i, temperature in enumerate(temperatures):
        alone = value(name, student[i : i + 1], teachers[:, i : i + 1], float(temperature))
        torch.testing.assert_close(found[i : i + 1], alone)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("loud", [1.0, 50.0, 3e4])
@pytest.mark.parametrize("name", ALL)
def test_finite_with_extreme_logits_in_half_precision(name, loud, classes):
    """Probabilities that are exactly 0 and 1, and students that do not tell classes apart at all."""
    student, teachers = (loud * normal(*shape, seed=seed) for shape, seed in (((8, classes), 0), ((2, 8, classes), 1)))
    student[0], teachers[:, 1] = 0.0, 0.0
    half = student.to(torch.bfloat16).requires_grad_()
    found = value(name, half, teachers.to(torch.bfloat16))
    assert found.dtype == torch.float32
    (gradient,) = torch.autograd.grad(found.sum(), half)
    found = found.detach()
    assert found.isfinite().all()
    assert gradient.isfinite().all()
    assert (found >= -1e-5 * max(1.0, float(found.abs().max()))).all()


OF_SECOND_ORDER = ["reverse_kl", "jensen_shannon", "skew_kl", "skew_reverse_kl", "bidirectional_kl", "todi_kl", "soft_label_ce"]


@pytest.mark.parametrize("name", OF_SECOND_ORDER)
def test_the_gradient_keeps_its_size_as_temperature_rises(name):
    """As plain KD's does: T^2 stands against logits and probabilities that are divided by T."""
    gradients = {}
    for temperature in (10.0, 1000.0):
        student = normal(5, 4).requires_grad_()
        (gradients[temperature],) = torch.autograd.grad(value(name, student, normal(5, 4, seed=1), temperature).sum(), student)
    ratio = gradients[1000.0].norm() / gradients[10.0].norm()
    assert 0.8 < ratio < 1.25


@pytest.mark.parametrize("name", ALL)
def test_a_batch_without_teachers_is_refused(name):
    with pytest.raises(ValueError, match="this batch has none"):
        value(name, normal(3, 4), normal(0, 3, 4))


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), classes=st.sampled_from(CLASSES), temperature=st.sampled_from([1.0, 2.0, 5.0]))
def test_every_divergence_is_its_formula(seed, classes, temperature):
    """Typed out with probabilities, in double precision, as the papers and the authors' code have them."""
    s, t = normal(4, classes, seed=seed), normal(4, classes, seed=seed + 1)
    q, p = (s / temperature).softmax(-1), (t / temperature).softmax(-1)
    m = (p + q) / 2
    skewed, skewed_reverse = 0.1 * p + 0.9 * q, 0.1 * q + 0.9 * p
    teacher_s_place, student_s_place = 0.1 * p + 0.9 * q, 0.9 * p + 0.1 * q
    weight = 1 / (1 + q / p)
    gamma = 1 / temperature
    power = t.softmax(-1) ** gamma
    power = power / power.sum(-1, keepdim=True)
    a, b = 0.8, 0.3
    square = temperature**2
    expected = {
        "reverse_kl": square * (q * (q / p).log()).sum(-1),
        "jensen_shannon": square * (p * (p / m).log() + q * (q / m).log()).sum(-1) / 2,
        "skew_kl": square * (p * (p / skewed).log()).sum(-1),
        "skew_reverse_kl": square * (q * (q / skewed_reverse).log()).sum(-1),
        "bidirectional_kl": square * (teacher_s_place * (teacher_s_place / student_s_place).log()).sum(-1),
        "alpha_beta": -square * (p**a * q**b - a / (a + b) * p ** (a + b) - b / (a + b) * q ** (a + b)).sum(-1) / (a * b),
        "total_variation": temperature * 0.5 * (p - q).abs().sum(-1),
        "todi_kl": square * (weight * p * (p / q).log() + (1 - weight) * q * (q / p).log()).sum(-1),
        "soft_label_ce": -square * (p * q.log()).sum(-1),
        "transformed_teacher": (power * (power / s.softmax(-1)).log()).sum(-1),
        "dist_inter": torch.stack([square * (1 - torch.corrcoef(torch.stack(pair))[0, 1]) for pair in zip(p, q, strict=True)]),
    }
    for name, formula in expected.items():
        note(name)
        torch.testing.assert_close(value(name, s, t, temperature), formula, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", sorted({*DIVERGENCES} - {"dist_inter", "dist_intra", "dynamic_temperature_kd"}))
def test_with_two_classes_all_pull_in_the_direction_of_kl(name):
    """With more classes they do not."""
    for classes, parallel in ((2, True), (6, False)):
        student, teacher = normal(20, classes).requires_grad_(), normal(20, classes, seed=1)
        both = value(name, student, teacher), losses.kd(student, teacher, 2.0)
        found, plain = (torch.autograd.grad(one.sum(), student)[0] for one in both)
        assert (float(torch.nn.functional.cosine_similarity(found, plain, dim=-1).min()) > 0.9999) == parallel


def test_kl_has_its_place_among_them():
    s, t = normal(6, 5), normal(6, 5, seed=1)
    kd = losses.kd(s, t, 2.0)
    torch.testing.assert_close(value("reverse_kl", s, t), losses.kd(t, s, 2.0))
    torch.testing.assert_close(value("alpha_beta", s, t, alpha=1.0, beta=0.0), kd)
    torch.testing.assert_close(value("alpha_beta", s, t, alpha=0.0, beta=1.0), losses.kd(t, s, 2.0))
    torch.testing.assert_close(value("skew_kl", s, t, skew=1e-9), kd, atol=1e-6, rtol=0)
    torch.testing.assert_close(value("skew_reverse_kl", s, t, skew=1e-9), losses.kd(t, s, 2.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(value("bidirectional_kl", s, t, mixing=1e-9), kd, atol=1e-6, rtol=0)
    torch.testing.assert_close(value("bidirectional_kl", s, t, mixing=1 - 1e-9), losses.kd(t, s, 2.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(value("transformed_teacher", s, t, 1.0), losses.kd(s, t, 1.0))
    entropy = torch.special.entr((t / 2).softmax(-1)).sum(-1)
    torch.testing.assert_close(value("soft_label_ce", s, t), kd + 4 * entropy)


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.7), (0.7, 0.0), (0.0, 0.0)])
def test_an_exponent_of_nought_is_the_limit(alpha, beta):
    s, t = normal(6, 5), normal(6, 5, seed=1)
    near = value("alpha_beta", s, t, alpha=alpha or 1e-5, beta=beta or 1e-5)
    torch.testing.assert_close(value("alpha_beta", s, t, alpha=alpha, beta=beta), near, atol=1e-3, rtol=1e-3)


def test_jensen_shannon_and_total_variation_are_bounded_and_symmetric():
    s, t = 100 * normal(50, 3), 100 * normal(50, 3, seed=1)
    for name, bound in (("jensen_shannon", 4 * math.log(2)), ("total_variation", 2.0)):
        found = value(name, s, t)
        torch.testing.assert_close(found, value(name, t, s))
        assert bound - 1e-3 < found.max() <= bound + 1e-9
    # two sure models that disagree: 0.8 log 9, times T^2; the divergence between sure models has no other value
    assert float(value("bidirectional_kl", s, t).max()) == pytest.approx(4 * 0.8 * math.log(9), abs=1e-3)


def test_todi_holds_its_weights_still():
    s, t = normal(6, 5).requires_grad_(), normal(6, 5, seed=1)
    (found,) = torch.autograd.grad(value("todi_kl", s, t).sum(), s)
    q, p = (s / 2).softmax(-1), (t / 2).softmax(-1)
    weight = (p / (p + q)).detach()
    formula = 4 * (weight * p * (p / q).log() + (1 - weight) * q * (q / p).log()).sum()
    torch.testing.assert_close(found, torch.autograd.grad(formula, s)[0])
    assert needs_of_terms(Needs(terms=("todi_kl",))).stops_gradient


def test_taid_pulls_by_the_teacher_s_share_along_the_way_to_it():
    """`TAID.compute_loss`, typed out: p_t from detached student logits, and the cross-entropy of it."""
    s, t = normal(6, 5).requires_grad_(), normal(6, 5, seed=1)
    for share in (0.0, 0.4, 1.0):
        shape = TermShape(2.0, teacher_share=share)
        inputs = TermInputs(s, t[None], torch.zeros(6, dtype=torch.int64), shape)
        found = registered_terms()["interpolated_ce"](term_options("interpolated_ce", {}), cast(Any, None))(inputs)
        p_t = (((1 - share) * s.detach() + share * t) / 2).softmax(-1)
        formula = -4 * (p_t * (s / 2).log_softmax(-1)).sum(-1)
        torch.testing.assert_close(found, formula)
        gradients = [torch.autograd.grad(one.sum(), s, retain_graph=True)[0] for one in (found, formula)]
        torch.testing.assert_close(*gradients)
        assert (float(gradients[0].norm()) < 1e-9) == (share == 0)
    torch.testing.assert_close(found, value("soft_label_ce", s, t))
    assert needs_of_terms(Needs(terms=("interpolated_ce",))).stops_gradient


def test_dtkd_is_the_authors_on_logits_without_a_level():
    """`DTKD.forward_train` of the authors, typed out, with logits whose mean over the classes is 0."""
    leaf = normal(6, 5).requires_grad_()
    s, t = (logits - logits.mean(-1, keepdim=True) for logits in (leaf, normal(6, 5, seed=1)))
    top_s, top_t = s.max(1, keepdim=True)[0], t.max(1, keepdim=True)[0]
    temperature_s, temperature_t = 2 * top_s / (top_t + top_s) * 4.0, 2 * top_t / (top_t + top_s) * 4.0
    p, q = torch.softmax(t / temperature_t, 1), torch.softmax(s / temperature_s, 1)
    formula = ((p * (p / q).log()).sum(1, keepdim=True) * temperature_t * temperature_s).squeeze(1)
    found = value("dynamic_temperature_kd", s, t, 4.0)
    torch.testing.assert_close(found, formula)
    gradients = [torch.autograd.grad(one.sum(), leaf, retain_graph=True)[0] for one in (found, formula)]
    torch.testing.assert_close(*gradients)


def test_with_two_classes_dtkd_sees_disagreement_alone():
    s, t = normal(40, 2), normal(40, 2, seed=1)
    agree = s.argmax(-1) == t.argmax(-1)
    found = value("dynamic_temperature_kd", s, t)
    torch.testing.assert_close(found[agree], torch.zeros(int(agree.sum()), dtype=torch.float64), atol=1e-9, rtol=0)
    assert (found[~agree] > 0).all()


def test_with_two_classes_a_correlation_has_no_gradient():
    s = normal(40, 2).requires_grad_()
    found = value("dist_inter", s, normal(40, 2, seed=1))
    torch.testing.assert_close((found / 8).round(), found / 8, atol=1e-4, rtol=0)  # 0 or T^2 * 2
    assert torch.autograd.grad(found.sum(), s)[0].abs().max() < 1e-4


class TestDistIntra:
    def test_its_mean_is_dist_s_relation_between_samples(self):
        """`intra_class_relation`: 1 - the mean over classes of the correlation over the batch."""
        s, t = normal(12, 4), normal(12, 4, seed=1)
        q, p = (s / 2).softmax(-1), (t / 2).softmax(-1)
        correlations = [torch.corrcoef(torch.stack([p[:, c], q[:, c]]))[0, 1] for c in range(4)]
        torch.testing.assert_close(value("dist_intra", s, t).mean(), 4 * (1 - torch.stack(correlations).mean()))

    def test_ranks_see_the_whole_batch(self):
        """Each of two ranks gets its own rows of what one rank computes."""
        s, t = normal(8, 3, dtype=torch.float32), normal(8, 3, seed=1, dtype=torch.float32)
        whole = value("dist_intra", s, t)
        assert needs_of_terms(Needs(terms=("dist_intra",))).whole_batch

        class Halves(Single):
            def gather_rows(self, rows, dim=0):
                return next(full for full in ((s / 2).softmax(-1), (t / 2).softmax(-1)) if torch.equal(full[own], rows))

            gather_with_gradient = gather_rows

        for own in (slice(0, 4), slice(4, 8)):
            inputs = TermInputs(
                s[own], t[None, own], torch.zeros(4, dtype=torch.int64), TermShape(2.0), ranks=Halves(), own_rows=own
            )
            made = registered_terms()["dist_intra"](term_options("dist_intra", {}), cast(Any, None))
            torch.testing.assert_close(made(inputs), whole[own])
