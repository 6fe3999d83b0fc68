"""Parts of the input, and their saliency."""

from __future__ import annotations

import pytest
import torch

from harness.data.output_names import PARTS, dropout_draws, parse_draws, teacher_passes_per_row
from harness.loss_terms.losses import kd
from tests.harness.loss_terms.given import CLASSES, ROWS, inputs, make, normal, rows

SALIENCIES = ["uniform", "population", "instance"]


def given(parts: int = 2):
    fit = rows(**{PARTS: normal(ROWS, parts, CLASSES, seed=4)})
    return fit, inputs(fit, student_parts=normal(parts, ROWS, CLASSES, seed=7).requires_grad_())


@pytest.mark.parametrize("saliency", SALIENCIES)
def test_one_part_that_is_the_whole_input_is_plain_kd(saliency):
    fit = rows()
    whole = torch.from_numpy(fit.teacher_logits[0]).unsqueeze(1)
    fit = rows(**{PARTS: whole})
    found = inputs(fit)
    found = inputs(fit, student_parts=found.student_logits.unsqueeze(0))
    term = make("part_kd", fit, saliency=saliency)
    torch.testing.assert_close(term(found), kd(found.student_logits, found.teacher_logits[0], 2.0))


def test_each_part_is_compared_with_the_teacher_on_that_part():
    fit, found = given()
    value = make("part_kd_each", fit)(found)
    for m in range(2):
        teacher = found.batch.teacher_outputs[PARTS][0][:, m]
        torch.testing.assert_close(value[m], kd(found.student_parts[m], teacher, 2.0))


def shares(found):
    """[parts, batch]: saliencies by hand; without the first part the second is left, and the other way round."""
    whole = found.teacher_logits[0].softmax(-1)
    parts = found.batch.teacher_outputs[PARTS][0].softmax(-1)
    return torch.stack([divergence(whole, parts[:, 1]), divergence(whole, parts[:, 0])])


def divergence(p, q):
    return (p * (p / q).log()).sum(-1)


@pytest.mark.parametrize("saliency", SALIENCIES)
def test_saliency_weights(saliency):
    fit, found = given()
    each = make("part_kd_each", fit)(found)
    salient = shares(found)
    if saliency == "population":
        salient = salient.mean(-1, keepdim=True)
    weights = torch.full((2, 1), 0.5) if saliency == "uniform" else salient / salient.sum(0)
    value = make("part_kd", fit, saliency=saliency)(found)
    torch.testing.assert_close(value, (weights * each).sum(0), rtol=1e-4, atol=1e-5)


def test_parts_that_say_the_same_as_the_whole_weigh_the_same():
    fit = rows()
    whole = torch.from_numpy(fit.teacher_logits[0])
    fit = rows(**{PARTS: torch.stack([whole, whole], 1)})
    found = inputs(fit, student_parts=normal(2, ROWS, CLASSES, seed=7))
    torch.testing.assert_close(make("part_kd", fit)(found), make("part_kd", fit, saliency="uniform")(found))


def test_each_epoch_uses_the_next_draw():
    drawn = normal(ROWS, 3, CLASSES, seed=4)
    fit = rows(**{dropout_draws(0.15, 3): drawn})
    term = make("noisy_kd", fit, draws=3, temperature=1.5)
    for epoch in range(5):
        found = inputs(fit, epoch=epoch)
        torch.testing.assert_close(term(found), kd(found.student_logits, drawn[:, epoch % 3], 1.5))


def test_draws_without_noise_are_plain_kd():
    fit = rows()
    drawn = torch.from_numpy(fit.teacher_logits[0]).unsqueeze(1).expand(-1, 4, -1)
    fit = rows(**{dropout_draws(0.15, 4): drawn})
    found = inputs(fit, epoch=2)
    torch.testing.assert_close(make("noisy_kd", fit)(found), kd(found.student_logits, found.teacher_logits[0], 1.0))


def test_names_of_draws_are_read_back():
    for rate in (0.15, 1e-05, 0.5):
        assert parse_draws(dropout_draws(rate, 7)) == (rate, 7)
    assert parse_draws("layers") is None
    assert teacher_passes_per_row(dropout_draws(0.1, 7)) == 7
