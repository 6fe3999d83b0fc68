from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harness.stats.budget import best_so_far, pareto_front, score_within


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
