from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tests.strategies.contexts import make, make_context, make_setup, weigh

SETUP = make_setup()


def test_equal_losses_give_one_minus_one_over_e():
    context = make_context(SETUP)
    context = replace(context, student_logits=context.teacher_logits[0].clone())
    weights = weigh(make("wsl", SETUP, kd_weight=2.0), context)
    torch.testing.assert_close(weights["kd"], torch.full((8,), 2 * (1 - math.exp(-1))))
    torch.testing.assert_close(weights["ce"], torch.ones(8))


def test_a_student_that_beats_the_teacher_gets_little_distillation():
    context = make_context(SETUP)
    one_hot = torch.nn.functional.one_hot(context.labels, 3).float()
    sure, unsure = replace(context, student_logits=20 * one_hot), replace(context, student_logits=-20 * one_hot)
    assert weigh(make("wsl", SETUP), sure)["kd"].max() < 1e-3
    assert weigh(make("wsl", SETUP), unsure)["kd"].min() > 2.4


@pytest.mark.parametrize("name", ["wsl", "wsl_convex"])
def test_the_weight_by_hand(name):
    """One sample, two classes: ce of the student log 4, of the teacher log 2."""
    context = replace(
        make_context(SETUP, batch=1),
        labels=torch.tensor([0]),
        student_logits=torch.tensor([[0.0, math.log(3.0)]]),
        teacher_logits=torch.zeros(1, 1, 2),
    )
    share = 1 - math.exp(-math.log(4) / math.log(2))
    weights = weigh(make(name, SETUP), context)
    if name == "wsl":
        assert (float(weights["ce"]), float(weights["kd"])) == pytest.approx((1.0, 2.5 * share))
    else:
        assert (float(weights["ce"]), float(weights["kd"])) == pytest.approx((1 - share, share))
