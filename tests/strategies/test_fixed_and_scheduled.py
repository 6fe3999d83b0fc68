from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from strategies import resolve
from tests.strategies.contexts import loss_terms, make, make_context, make_setup, weigh

SETUP = make_setup()
SCHEDULES = ["linear", "cosine", "exponential", "step", "reverse"]
shares = st.floats(0.0, 1.0)


def at(progress: float, **options):
    return replace(make_context(SETUP, **options), progress=progress)


def test_end_points_use_one_term_each():
    assert resolve("ce_only").needs(resolve("ce_only").settings()).terms == ("ce",)
    assert resolve("ce_only").needs(resolve("ce_only").settings()).teachers[0] == 0
    assert make("ce_only", SETUP).weights(make_context(SETUP, terms=("ce",))) == {"ce": 1.0}
    assert make("kd_only", SETUP).weights(make_context(SETUP, terms=("kd",))) == {"kd": 1.0}


@given(shares)
def test_fixed_alpha_is_the_setting(kd_weight):
    assert make("fixed_alpha", SETUP, kd_weight=kd_weight).weights(make_context(SETUP)) == {
        "ce": 1 - kd_weight,
        "kd": kd_weight,
    }


@pytest.mark.parametrize("kd_weight", [-0.1, 1.1, float("nan")])
def test_a_mixing_weight_outside_the_unit_interval_is_refused(kd_weight):
    for name in ("fixed_alpha", "annealed_alpha"):
        with pytest.raises(ValidationError, match="kd_weight"):
            resolve(name).settings({"kd_weight": kd_weight})


@given(shares, shares, st.sampled_from(SCHEDULES))
def test_schedules_multiply_the_weight_and_never_replace_it(progress, kd_weight, schedule):
    full = make("annealed_alpha", SETUP, schedule=schedule).weights(at(progress))
    scaled = make("annealed_alpha", SETUP, schedule=schedule, kd_weight=kd_weight).weights(at(progress))
    assert scaled["kd"] == pytest.approx(kd_weight * full["kd"])
    assert scaled["ce"] == pytest.approx(1 - scaled["kd"])


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [1.0, 0.75, 0.5, 0.0]),
        ("cosine", [1.0, 0.5 + math.sqrt(0.125), 0.5, 0.0]),
        ("exponential", [1.0, math.exp(-1.25), math.exp(-2.5), math.exp(-5.0)]),
        ("step", [1.0, 0.5, 0.25, 0.125]),
        ("reverse", [0.0, 0.25, 0.5, 1.0]),
    ],
)
def test_schedules_at_known_points(schedule, expected):
    strategy = make("annealed_alpha", SETUP, schedule=schedule)
    assert [strategy.weights(at(p))["kd"] for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx(expected)


@given(st.lists(shares, min_size=2, max_size=10), st.sampled_from(SCHEDULES))
def test_schedules_are_monotone(points, schedule):
    strategy = make("annealed_alpha", SETUP, schedule=schedule)
    found = [strategy.weights(at(p))["kd"] for p in sorted(points)]
    assert found == sorted(found, reverse=schedule != "reverse")


def test_linear_annealing_is_teacher_annealing_at_temperature_one():
    """BAM!: cross-entropy with r * one-hot + (1 - r) * teacher, which differs from the mixture by the teacher's entropy."""
    setup = make_setup(temperature=1.0)
    context = replace(make_context(setup), progress=0.3)
    context = replace(context, student_logits=context.student_logits.clone().requires_grad_())
    terms = loss_terms(("ce", "kd"), context, make("annealed_alpha", setup).shape_terms(context))
    weights = weigh(make("annealed_alpha", setup), replace(context, terms=terms))
    ours = sum((weights[name] * terms[name]).sum() for name in terms)
    target = 0.3 * torch.nn.functional.one_hot(context.labels, 3) + 0.7 * context.teacher_logits[0].softmax(-1)
    annealed = -(target * context.student_logits.log_softmax(-1)).sum()
    gradients = [torch.autograd.grad(loss, context.student_logits, retain_graph=True)[0] for loss in (ours, annealed)]
    torch.testing.assert_close(*gradients)


def test_random_weights_average_to_equal_and_come_from_the_generator():
    generator = torch.Generator().manual_seed(0)
    context = replace(make_context(SETUP), generator=generator)
    strategy = make("random_weights", SETUP)
    drawn = torch.stack([torch.as_tensor(strategy.weights(context)["kd"]) for _ in range(4000)])
    assert drawn.mean() == pytest.approx(0.5, abs=0.02)
    # softmax of two standard normals is the logistic function of N(0, 2)
    assert drawn.logit().std() == pytest.approx(math.sqrt(2), abs=0.06)
    state = generator.get_state()
    torch.manual_seed(1)
    again = [strategy.weights(replace(context, generator=generator))]
    generator.set_state(state)
    assert again == [strategy.weights(replace(context, generator=generator))]
