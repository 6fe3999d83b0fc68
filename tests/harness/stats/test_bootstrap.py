from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef

from harness.stats.bootstrap import drawn_repeats, draws_for, interval, resampled_scores, two_sided_p
from harness.stats.multiple import holm
from harness.stats.paired import Seeds, compare_pair, sample_task
from harness.stats.power import minimum_detectable_effect


def runs(rows: int = 300, seed: int = 0, accuracies: tuple[float, ...] = (0.8, 0.7)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, rows)
    predicted = np.stack([np.where(rng.uniform(size=rows) < a, labels, 1 - labels) for a in accuracies])
    return labels, predicted


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews"])
def test_every_draw_is_the_metric_of_resampled_rows(metric: str) -> None:
    labels, predicted = runs(40)
    got = resampled_scores(metric, labels, predicted, 2, draws=25, seed=3)
    rng = np.random.default_rng(3)  # the same draws, computed the slow way
    drawn = rng.integers(0, 40, size=(25, 40))
    function = {"accuracy": lambda y, p: (y == p).mean(), "f1": f1_score, "matthews": matthews_corrcoef}[metric]
    want = [[function(labels[rows], run[rows]) for run in predicted] for rows in drawn]
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_the_interval_agrees_with_scipys_bootstrap() -> None:
    labels, predicted = runs()
    right = (predicted == labels).astype(float)
    ours = resampled_scores("accuracy", labels, predicted, 2, 4000, 0)
    low, high = interval(ours[:, 0] - ours[:, 1])
    theirs = stats.bootstrap(
        (right[0] - right[1],), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.008)


def test_the_p_value_agrees_with_a_paired_z_test() -> None:
    labels, predicted = runs(rows=2000, accuracies=(0.80, 0.775))
    difference = (predicted[0] == labels).astype(float) - (predicted[1] == labels)
    want = 2 * stats.norm.sf(abs(difference.mean()) / stats.sem(difference))
    samples = resampled_scores("accuracy", labels, predicted, 2, 10_000, 0)
    assert float(two_sided_p(samples[:, 0] - samples[:, 1])) == pytest.approx(want, abs=0.015)


def test_no_difference_is_rarely_found() -> None:
    """Size of the test: 5 % of null comparisons, give or take."""
    found = 0
    for seed in range(200):
        labels, predicted = runs(200, seed, (0.75, 0.75))
        samples = resampled_scores("accuracy", labels, predicted, 2, 300, seed)
        found += float(two_sided_p(samples[:, 0] - samples[:, 1])) < 0.05
    assert 2 <= found <= 22


def test_the_interval_over_repeats_is_that_of_a_t_test() -> None:
    a, b = np.array([0.71, 0.64, 0.69, 0.8]), np.array([0.66, 0.65, 0.61, 0.7])
    drawn = drawn_repeats(np.stack([a, b]), 200_000, 0)
    low, high = (a - b).mean() + interval(drawn[:, 0] - drawn[:, 1])
    want = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (low, high) == pytest.approx((want.low, want.high), abs=0.002)


def test_many_degrees_of_freedom_make_it_normal() -> None:
    values = np.array([0.1, 0.4, 0.2, 0.9])
    drawn = drawn_repeats(values, 100_000, 0, freedom=10_000)
    low, high = interval(drawn)
    half = stats.norm.ppf(0.975) * stats.sem(values)
    assert (low, high) == pytest.approx((-half, half), rel=0.02)


def test_one_repeat_says_nothing_of_others() -> None:
    assert (drawn_repeats(np.array([[0.5], [0.7]]), 10, 0) == 0).all()
    assert np.isnan(drawn_repeats(np.array([np.nan]), 10, 0)).all()


def test_the_same_predictions_differ_by_nothing_and_missing_runs_stay_missing() -> None:
    labels, predicted = runs()
    same = np.stack([[predicted[0], predicted[1]]] * 3)
    present = np.array([[True, True], [True, True], [True, False]])
    sample = sample_task("accuracy", labels, same, present, 2, 200, Seeds(0, 1))
    assert (sample.differences(0)[:, 1] == 0).all()
    p = two_sided_p(sample.differences(0))
    assert p[1] == 1.0
    assert np.isnan(p[2])
    assert np.isnan(sample.intervals[:, 2]).all()


def test_two_tasks_on_the_same_rows_know_no_more_than_one() -> None:
    labels, predicted = runs(400, accuracies=(0.8, 0.75))

    def differences(*examples: int) -> np.ndarray:
        drawn = [
            compare_pair("accuracy", labels, predicted[:1], predicted[1:], 2, 4000, Seeds(seed, place))[1]
            for place, seed in enumerate(examples)
        ]
        return np.mean(drawn, axis=0)

    alone = differences(0).std()
    assert differences(0, 0).std() == pytest.approx(alone)
    assert differences(0, 9).std() == pytest.approx(alone / 2**0.5, rel=0.05)


def test_a_pair_is_compared() -> None:
    labels, predicted = runs(1000, accuracies=(0.85, 0.75) * 4)
    result, _ = compare_pair("accuracy", labels, predicted[::2], predicted[1::2], 2, 2000, Seeds(0, 1))
    assert result.low < result.difference < result.high
    assert result.p < 0.01
    assert result.mcnemar.p < 0.001
    other, _ = compare_pair("accuracy", labels, predicted[1::2], predicted[::2], 2, 2000, Seeds(0, 1))
    assert (other.difference, other.low, other.high) == pytest.approx((-result.difference, -result.high, -result.low), abs=1e-9)


def test_the_detectable_effect_is_found_in_four_of_five() -> None:
    rng = np.random.default_rng(0)
    effect = float(minimum_detectable_effect(rng.normal(0.3, 0.01, 100_000)))  # where the draws are centred does not matter
    z = rng.normal(effect, 0.01, 20_000) / 0.01
    assert (np.abs(z) > stats.norm.ppf(0.975)).mean() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("comparisons", [5, 37, 100])
def test_what_holm_finds_is_not_a_matter_of_the_seed(comparisons: int) -> None:
    threshold = 0.05 / comparisons
    draws = draws_for(comparisons)
    centre = stats.norm.ppf(1 - threshold / 2)  # in standard errors: a difference with this very p
    found = [float(two_sided_p(np.random.default_rng(seed).normal(centre, 1, draws))) for seed in range(100)]
    assert np.mean(found) == pytest.approx(threshold, rel=0.1)
    assert np.std(found) < 0.2 * threshold
    assert holm(np.full(comparisons, two_sided_p(np.ones(draws))))[0] < 0.05
