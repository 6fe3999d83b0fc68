"""Cached dropout draws in turn."""

from __future__ import annotations

import torch

from harness.data.cached_outputs import dropout_draws, parse_draws, teacher_passes_per_row
from harness.loss_terms.losses import kd
from tests.harness.loss_terms.given import CLASSES, ROWS, inputs, make, normal, rows


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
