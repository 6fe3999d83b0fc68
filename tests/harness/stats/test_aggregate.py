from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.stats.aggregate import (
    best_so_far,
    interquartile_mean,
    mean,
    normalise,
    pareto_front,
    probability_of_improvement,
    score_within,
    win_rates,
)
from harness.stats.paired import point_scores
from harness.study.tasks import compute_metrics


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


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews"])
@settings(max_examples=40, deadline=None)
@given(data=st.data(), classes=st.integers(2, 4))
def test_scores_from_counts_are_the_tasks_metrics(metric: str, data: st.DataObject, classes: int) -> None:
    rows = data.draw(st.integers(2, 30))
    column = st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows)
    labels = np.array(data.draw(column))
    predicted = np.array([data.draw(column) for _ in range(2)])
    want = [compute_metrics([metric], labels, row, classes)[metric] for row in predicted]
    np.testing.assert_allclose(point_scores(metric, labels, predicted, classes), want, atol=1e-12)


def test_best_so_far_passes_over_failures() -> None:
    got = best_so_far(np.array([np.nan, 0.5, np.nan, 0.4, 0.7]))
    np.testing.assert_array_equal(got, [np.nan, 0.5, 0.5, 0.5, 0.7])


def test_the_score_of_what_fits() -> None:
    cost, objectives, scores = np.array([1.0, 1.0, 1.0]), np.array([0.5, 0.9, 0.99]), np.array([0.4, 0.3, 0.8])
    assert score_within(cost, objectives, scores, 2.0) == 0.3  # chosen by objective, not by score
    assert score_within(cost, objectives, scores, 3.0) == 0.8
    assert np.isnan(score_within(cost, objectives, scores, 0.5))
    assert np.isnan(score_within(cost, np.full(3, np.nan), scores, 3.0))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_dominates(points: list[tuple[int, int]]) -> None:
    cost, score = np.array(points, float).T
    front = pareto_front(cost, score)
    dominated = [
        any((c <= cost[i] and s >= score[i]) and (c < cost[i] or s > score[i]) for c, s in zip(cost, score, strict=True))
        for i in range(len(points))
    ]
    assert {points[i] for i in front} == {points[i] for i in range(len(points)) if not dominated[i]}
    assert list(cost[front]) == sorted(cost[front])
