import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from harness.loss_terms import losses

TEMPERATURES = st.floats(0.5, 10.0)


def logits(*shape):
    return arrays(np.float64, shape, elements=st.floats(-8, 8, allow_nan=False)).map(torch.from_numpy)


LABELS = arrays(np.int64, 5, elements=st.integers(0, 2)).map(torch.from_numpy)


def kl(p, q):
    return (p * (p.log() - q.log())).sum(-1)


@given(logits(5, 3), LABELS)
def test_cross_entropy_is_minus_the_label_s_log_probability(s, y):
    expected = -torch.stack([row.softmax(0)[label].log() for row, label in zip(s, y, strict=True)])
    torch.testing.assert_close(losses.cross_entropy(s, y), expected)


@given(logits(5, 3), logits(5, 3), TEMPERATURES)
def test_kd_is_the_scaled_divergence_of_the_softened_distributions(s, t, temperature):
    expected = temperature**2 * kl((t / temperature).softmax(-1), (s / temperature).softmax(-1))
    torch.testing.assert_close(losses.kd(s, t, temperature), expected, atol=1e-10, rtol=1e-7)


@given(logits(5, 3), logits(5, 3), TEMPERATURES)
def test_kd_s_gradient_is_temperature_times_the_difference_of_softened_probabilities(s, t, temperature):
    s = s.requires_grad_()
    (gradient,) = torch.autograd.grad(losses.kd(s, t, temperature).sum(), s)
    expected = temperature * ((s / temperature).softmax(-1) - (t / temperature).softmax(-1))
    torch.testing.assert_close(gradient, expected, atol=1e-10, rtol=1e-7)


@given(logits(5, 3), logits(5, 3), TEMPERATURES, st.floats(-50, 50))
def test_kd_is_not_negative_zero_for_equals_and_blind_to_a_constant(s, t, temperature, constant):
    value = losses.kd(s, t, temperature)
    assert (value >= -1e-9).all()
    torch.testing.assert_close(losses.kd(s + constant, t - constant, temperature), value, atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(losses.kd(t, t, temperature), torch.zeros(5, dtype=torch.float64))


@given(logits(5, 3), logits(5, 3), logits(5, 3), arrays(np.float64, 5, elements=TEMPERATURES).map(torch.from_numpy))
def test_a_temperature_per_sample_and_a_row_per_teacher(s, t, u, temperatures):
    found = losses.kd_each(s, torch.stack([t, u]), temperatures)
    assert found.shape == (2, 5)
    for k, teacher in enumerate((t, u)):
        for i, temperature in enumerate(temperatures):
            torch.testing.assert_close(found[k, i], losses.kd(s[i], teacher[i], float(temperature)))


def test_kd_approaches_logit_regression_at_high_temperature():
    s, t = torch.randn(2, 6, 4, dtype=torch.float64)
    s, t = s - s.mean(-1, keepdim=True), t - t.mean(-1, keepdim=True)
    # Hinton et al. 2015, section 2.1: half the mean square difference of centred logits
    torch.testing.assert_close(losses.kd(s, t, 1e3), losses.mse_logits(s, t) / 2, rtol=1e-2, atol=1e-6)


@given(logits(5, 3), logits(5, 3), st.floats(0, 1))
def test_logit_regression_scales_the_teacher(s, t, scale):
    torch.testing.assert_close(losses.mse_logits(s, t, scale), ((s - scale * t) ** 2).mean(-1))


@given(logits(5, 3), logits(5, 3), LABELS, TEMPERATURES)
def test_decoupled_parts_make_up_kd(s, t, y, temperature):
    target = (t / temperature).softmax(-1).gather(-1, y[:, None])[:, 0]
    whole = losses.tckd(s, t, y, temperature) + (1 - target) * losses.nckd(s, t, y, temperature)
    torch.testing.assert_close(whole, losses.kd(s, t, temperature), atol=1e-8, rtol=1e-6)


@given(logits(5, 3), logits(5, 3), LABELS, TEMPERATURES)
def test_target_part_is_the_binary_divergence(s, t, y, temperature):
    p = [(z / temperature).softmax(-1).gather(-1, y[:, None])[:, 0] for z in (s, t)]
    binary = [torch.stack([q, 1 - q], -1) for q in p]
    torch.testing.assert_close(
        losses.tckd(s, t, y, temperature), temperature**2 * kl(binary[1], binary[0]), atol=1e-6, rtol=1e-5
    )


@given(logits(5, 2), logits(5, 2), TEMPERATURES)
def test_two_classes_leave_no_non_target_part(s, t, temperature):
    y = torch.tensor([0, 1, 0, 1, 1])
    assert torch.equal(losses.nckd(s, t, y, temperature), torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(losses.tckd(s, t, y, temperature), losses.kd(s, t, temperature), atol=1e-9, rtol=1e-6)


@given(st.integers(0, 2**31), st.floats(0.1, 10), st.floats(-5, 5), TEMPERATURES)
def test_standardised_kd_ignores_scale_and_shift(seed, scale, shift, temperature):
    s, t = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        losses.standardised_kd(s * scale + shift, t, temperature),
        losses.standardised_kd(s, t, temperature),
        atol=1e-5,
        rtol=1e-4,
    )


@pytest.mark.parametrize("size", [1e3, 1e4])
def test_extreme_logits_stay_finite(size):
    s = torch.tensor([[size, -size, 0.0]], requires_grad=True)
    t = torch.tensor([[-size, size, 0.0]])
    y = torch.tensor([1])
    for value in (
        losses.kd(s, t, 1.0),
        losses.tckd(s, t, y, 1.0),
        losses.nckd(s, t, y, 2.0),
        losses.cross_entropy(s, y),
        losses.standardised_kd(s, t, 2.0),
    ):
        (gradient,) = torch.autograd.grad(value.sum(), s)
        assert value.isfinite().all()
        assert gradient.isfinite().all()


def test_half_precision_logits_of_a_float32_pass_lose_nothing():
    s, t = torch.randn(2, 8, 3)
    torch.testing.assert_close(losses.kd(s, t, 3.0), losses.kd(s.double(), t.double(), 3.0).float(), atol=1e-5, rtol=1e-4)
