from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from strategies import TermShape, resolve
from strategies.temperature.ctkd import mean_kd
from tests.strategies.contexts import loss_terms, make, make_context, make_setup, weigh

SETUP = make_setup()
BINARY = make_setup(classes=2)


@pytest.mark.parametrize("name", ["dkd", "logit_standardisation"])
class TestTwoClasses:
    def test_are_refused_with_a_way_out(self, name):
        registered = resolve(name)
        reason = registered.refuses(registered.settings(), 2)
        assert reason is not None
        assert "two_classes: allow" in reason
        assert registered.refuses(registered.settings(), 3) is None
        assert registered.refuses(registered.settings({"two_classes": "allow"}), 2) is None
        with pytest.raises(ValueError, match="two classes"):
            make(name, BINARY)

    def test_are_indeed_degenerate(self, name):
        """dkd: the non-target part is 0. Standardised: no gradient to the student."""
        registered = resolve(name)
        terms = registered.needs(registered.settings()).terms
        context = make_context(BINARY)
        context = replace(context, student_logits=context.student_logits.clone().requires_grad_())
        values = loss_terms(terms, context, TermShape(temperature=2.0))
        if name == "dkd":
            torch.testing.assert_close(values["nckd"], torch.zeros(8))
        else:
            (gradient,) = torch.autograd.grad(values["standardised_kd"].sum(), context.student_logits)
            torch.testing.assert_close(gradient, torch.zeros(8, 2), atol=1e-5, rtol=0)


def test_dkd_with_the_teachers_own_factor_is_plain_kd():
    context = make_context(SETUP, terms=("ce", "tckd", "nckd"))
    weights = weigh(make("dkd", SETUP, ce_weight=0.0, target_weight=1.0, non_target_weight=1.0, warm_up_share=0), context)
    others = 1 - (context.teacher_logits[0] / 2.0).softmax(-1).gather(-1, context.labels[:, None]).squeeze(-1)
    total = weights["tckd"] * context.terms["tckd"] + weights["nckd"] * others * context.terms["nckd"]
    torch.testing.assert_close(total, loss_terms(("kd",), context, TermShape(2.0))["kd"])


@pytest.mark.parametrize("epoch", [0, 1, 10, 19, 20, 240])
def test_dkd_warms_up_as_the_authors_do(epoch):
    """min(epoch / 20, 1) of 240 epochs, typed out; cross-entropy has its whole weight throughout."""
    context = replace(make_context(SETUP, terms=("ce", "tckd", "nckd")), progress=epoch / 240)
    weights = make("dkd", SETUP, target_weight=2.0, non_target_weight=8.0).weights(context)
    rise = min(epoch / 20, 1.0)
    assert weights == {"ce": 1.0, "tckd": pytest.approx(2 * rise), "nckd": pytest.approx(8 * rise)}
    assert resolve("dkd").strategy.warm_up(make("dkd", SETUP).settings, 240) == pytest.approx(20)


def test_standardised_kd_does_not_see_the_students_scale():
    terms = ("ce", "standardised_kd")
    context = make_context(SETUP, terms=terms)
    scaled = make_context(SETUP, terms=terms, student_logits=3 * context.student_logits + 1)
    torch.testing.assert_close(context.terms["standardised_kd"], scaled.terms["standardised_kd"])
    assert weigh(make("logit_standardisation", SETUP), context)["standardised_kd"].unique().tolist() == [9.0]


class TestCtkd:
    def test_starts_from_the_sigmoid_of_one(self):
        shape = make("ctkd", SETUP).shape_terms(make_context(SETUP))
        assert float(shape.temperature) == pytest.approx(1 + 20 * float(torch.sigmoid(torch.tensor(1.0))))

    def test_does_not_move_at_the_start_and_then_makes_distillation_harder(self):
        strategy = make("ctkd", SETUP, temperature_learning_rate=5.0, weight_decay=0, learning_rate_drops=[])
        context = make_context(SETUP)
        before = strategy.h
        strategy.weights(replace(context, progress=0.0))
        assert strategy.h == before
        strategy.weights(replace(context, progress=1.0))
        after = mean_kd(context, strategy.temperature(strategy.h))
        assert after > mean_kd(context, strategy.temperature(before))

    def test_the_step_is_the_numerical_gradient(self):
        strategy = make("ctkd", SETUP, temperature_learning_rate=1.0, weight_decay=0, learning_rate_drops=[])
        context = replace(make_context(SETUP), progress=1.0)
        context64 = replace(
            context, student_logits=context.student_logits.double(), teacher_logits=context.teacher_logits.double()
        )
        at = [mean_kd(context64, strategy.temperature(torch.tensor(1.0 + d, dtype=torch.float64))) for d in (1e-5, -1e-5)]
        strategy.weights(context)
        assert float(strategy.h) - 1 == pytest.approx(float(0.9 * (at[0] - at[1]) / 2e-5), rel=1e-3)

    def test_h_follows_the_authors_optimiser(self):
        """torch's SGD with a reversed gradient of cosine strength, and a rate that falls to a tenth at 150, 180, 210 of 240."""
        strategy = make("ctkd", SETUP, temperature_learning_rate=10.0, ramp=10 / 240)
        h = torch.ones((), requires_grad=True)
        optimizer = torch.optim.SGD([h], lr=10.0, momentum=0.9, weight_decay=5e-4)
        for epoch in range(0, 240, 2):
            context = replace(make_context(SETUP, step=epoch), progress=epoch / 240)
            reversed_by = -0.5 * (1 - math.cos(min(epoch, 10) * math.pi / 10))
            optimizer.param_groups[0]["lr"] = 10.0 * 0.1 ** sum(epoch >= drop for drop in (150, 180, 210))
            temperature = 1 + 20 * h.sigmoid()
            teacher, student = (x / temperature for x in (context.teacher_logits[0], context.student_logits))
            kd = F.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="batchmean") * temperature**2
            optimizer.zero_grad()
            (0.9 * kd).backward()
            h.grad *= reversed_by
            optimizer.step()
            strategy.weights(context)
            torch.testing.assert_close(strategy.h, h.detach(), rtol=1e-3, atol=1e-3)
        assert abs(float(h.detach()) - 1) > 0.02

    def test_its_loss_is_the_harness_term(self):
        context = make_context(SETUP)
        torch.testing.assert_close(mean_kd(context, torch.tensor(2.0)), F.relu(context.terms["kd"]).mean())

    def test_strength_rises_from_zero_to_one_and_stays(self):
        strategy = make("ctkd", SETUP, ramp=0.5)
        assert [strategy.strength(p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0.0, 0.5, 1.0, 1.0])
