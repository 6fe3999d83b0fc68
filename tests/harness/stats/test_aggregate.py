from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from harness.stats.aggregate import (
    interquartile_mean,
    mean,
    normalise,
    probability_of_improvement,
    win_rates,
)


def table(strategies: int = 4, tasks: int = 7, repeats: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(0.8, 0.05, size=(strategies, tasks, repeats))


def test_references_are_0_and_1_and_close_ones_are_left_out() -> None:
    student, teacher = np.array([0.6, 0.7, 0.8]), np.array([0.7, 0.705, 0.75])
    scores = np.stack([student, teacher])[:, :, None]
    np.testing.assert_allclose(normalise(scores, student, teacher)[:, :, 0], [[0, np.nan, np.nan], [1, np.nan, np.nan]])


def test_interquartile_mean_is_scipys_on_all_values() -> None:
    scores = table()
    np.testing.assert_allclose(interquartile_mean(scores), [stats.trim_mean(row.ravel(), 0.25) for row in scores])
    scores[1, 2, 0] = np.nan
    assert np.isnan(interquartile_mean(scores)).tolist() == [False, True, False, False]
    assert np.isnan(mean(scores)).tolist() == [False, True, False, False]


def test_probability_of_improvement_is_mann_whitneys_u() -> None:
    scores = np.round(table(2), 2)  # with ties
    u = [stats.mannwhitneyu(scores[0, t], scores[1, t]).statistic / 9 for t in range(7)]
    assert float(probability_of_improvement(scores[0], scores[1])) == pytest.approx(np.mean(u))
    np.testing.assert_allclose(probability_of_improvement(scores, scores[1])[1], 0.5)


def test_win_rates_are_paired_and_complementary() -> None:
    scores = np.round(table(), 2)
    scores[3, 0, 0] = np.nan
    rates = win_rates(scores)
    assert np.isnan(np.diag(rates)).all()
    assert np.isnan(rates[3]).all()
    np.testing.assert_allclose(rates[:3, :3] + rates[:3, :3].T, np.where(np.eye(3), np.nan, 1.0))
    a, b = scores[0].ravel(), scores[1].ravel()
    assert rates[0, 1] == pytest.approx(((a > b).sum() + (a == b).sum() / 2) / a.size)
