from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef

from harness.stats.bootstrap import (
    Runs,
    draws_for,
    freedom_of_sum,
    interval,
    repeat_directions,
    resampled_scores,
    two_sided_p,
    widened,
    with_tails,
)
from harness.stats.multiple import holm
from harness.stats.paired import Contrast, Seeds, drawn_sum, sample_task
from harness.stats.power import minimum_detectable_effect


def runs(rows: int = 300, seed: int = 0, accuracies: tuple[float, ...] = (0.8, 0.7)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, rows)
    predicted = np.stack([np.where(rng.uniform(size=rows) < a, labels, 1 - labels) for a in accuracies])
    return labels, predicted


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews"])
def test_every_draw_is_the_metric_of_resampled_rows(metric: str) -> None:
    labels, predicted = runs(40)
    got = resampled_scores([Runs(metric, labels, predicted, 2)], draws=25, seed=3)[0]
    rng = np.random.default_rng(3)  # the same draws, computed the slow way
    drawn = rng.integers(0, 40, size=(25, 40))
    function = {"accuracy": lambda y, p: (y == p).mean(), "f1": f1_score, "matthews": matthews_corrcoef}[metric]
    want = [[function(labels[rows], run[rows]) for run in predicted] for rows in drawn]
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_the_interval_agrees_with_scipys_bootstrap() -> None:
    labels, predicted = runs()
    right = (predicted == labels).astype(float)
    ours = resampled_scores([Runs("accuracy", labels, predicted, 2)], 4000, 0)[0]
    low, high = interval(ours[:, 0] - ours[:, 1])
    theirs = stats.bootstrap(
        (right[0] - right[1],), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.008)


def test_the_p_value_agrees_with_a_paired_z_test() -> None:
    labels, predicted = runs(rows=2000, accuracies=(0.80, 0.775))
    difference = (predicted[0] == labels).astype(float) - (predicted[1] == labels)
    want = 2 * stats.norm.sf(abs(difference.mean()) / stats.sem(difference))
    samples = resampled_scores([Runs("accuracy", labels, predicted, 2)], 10_000, 0)[0]
    assert float(two_sided_p(samples[:, 0] - samples[:, 1])) == pytest.approx(want, abs=0.015)


def test_no_difference_is_rarely_found() -> None:
    """Size of the test: 5 % of null comparisons, give or take."""
    found = 0
    for seed in range(200):
        labels, predicted = runs(200, seed, (0.75, 0.75))
        samples = resampled_scores([Runs("accuracy", labels, predicted, 2)], 300, seed)[0]
        found += float(two_sided_p(samples[:, 0] - samples[:, 1])) < 0.05
    assert 2 <= found <= 22


def test_the_interval_over_repeats_is_that_of_a_t_test() -> None:
    a, b = np.array([0.71, 0.64, 0.69, 0.8]), np.array([0.66, 0.65, 0.61, 0.7])
    drawn = Contrast(np.zeros(200_000), a - b, repeat_directions(4, 200_000, 0)).draws
    low, high = (a - b).mean() + interval(drawn)
    want = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (low, high) == pytest.approx((want.low, want.high), abs=0.002)


def test_over_many_rows_of_spread_it_is_normal() -> None:
    values, rows = np.array([0.1, 0.4, 0.2, 0.9]), np.random.default_rng(1).normal(0, 5.0, 100_000)
    half = stats.norm.ppf(0.975) * (stats.sem(values) ** 2 + 25) ** 0.5
    assert interval(Contrast(rows, values, repeat_directions(4, 100_000, 0)).draws) == pytest.approx([-half, half], rel=0.02)


def test_one_repeat_says_nothing_of_others() -> None:
    assert (repeat_directions(1, 10, 0) == 0).all()


def test_the_same_predictions_differ_by_what_rows_leave_unseen_and_missing_runs_stay_missing() -> None:
    labels, predicted = runs()
    same = np.stack([[predicted[0], predicted[1]]] * 3)
    present = np.array([[True, True], [True, True], [True, False]])
    sample = sample_task("accuracy", labels, same, present, 2, 200, Seeds(0, 1))
    assert (sample.contrast(1, 1).draws == 0).all()
    assert (sample.contrast(1, 0).draws > 3 / len(labels)).mean() == pytest.approx(0.05, abs=0.04)
    assert two_sided_p(sample.contrast(1, 0).draws) == 1.0
    assert np.isnan(two_sided_p(sample.contrast(2, 0).draws))
    assert np.isnan(sample.intervals[:, 2]).all()


def test_two_tasks_on_the_same_rows_know_no_more_than_one() -> None:
    labels, predicted = runs(400, accuracies=(0.8, 0.75))
    present = np.ones((2, 1), np.bool_)

    def spread(*examples: int) -> float:
        samples = [
            sample_task("accuracy", labels, predicted[:, None], present, 2, 4000, Seeds(seed, place))
            for place, seed in enumerate(examples)
        ]
        parts = [sample.contrast(0, 1) for sample in samples]
        return float(drawn_sum(parts, np.full(len(parts), 1 / len(parts))).std())

    assert spread(0, 0) == pytest.approx(spread(0))
    assert spread(0, 9) == pytest.approx(spread(0) / 2**0.5, rel=0.05)


def test_a_pair_is_compared() -> None:
    labels, predicted = runs(1000, accuracies=(0.85, 0.75) * 4)
    both = np.stack([predicted[::2], predicted[1::2]])
    sample = sample_task("accuracy", labels, both, np.ones((2, 4), np.bool_), 2, 2000, Seeds(0, 1))
    drawn, mirror = sample.contrast(0, 1).draws, sample.contrast(1, 0).draws
    low, high = interval(drawn)
    assert low < sample.scores[0].mean() - sample.scores[1].mean() < high
    assert two_sided_p(drawn) < 0.01
    np.testing.assert_allclose(mirror, -drawn, atol=1e-12)


def test_what_a_run_errs_by_chance_counts_once() -> None:
    """Runs that are right at random have no examples in common that are easier: the spread of the repeats is all there is."""
    labels, predicted = runs(500, accuracies=(0.8,) * 40)
    both = predicted.reshape(2, 20, -1)
    sample = sample_task("accuracy", labels, both, np.ones((2, 20), np.bool_), 2, 2000, Seeds(0, 1))
    drawn = sample.contrast(0, 1).draws
    alone = sample.scores[0] - sample.scores[1]
    assert drawn.std() == pytest.approx(stats.sem(alone), rel=0.3)
    same = np.repeat(both[:, :1], 20, axis=1)  # and runs that are one run have nothing but the examples
    sample = sample_task("accuracy", labels, same, np.ones((2, 20), np.bool_), 2, 2000, Seeds(0, 1))
    right = (same[:, 0] == labels).astype(float)
    assert sample.contrast(0, 1).draws.std() == pytest.approx(stats.sem(right[0] - right[1]), rel=0.06)


def multi_bootstrap(right: np.ndarray, draws: int) -> np.ndarray:
    """Sellam et al. (2022): seeds and rows are drawn with replacement, the same for both. `right` [2, seeds, rows]."""
    rng = np.random.default_rng(0)
    _, seeds, rows = right.shape
    found = []
    for _ in range(draws):
        drawn = right[:, rng.integers(0, seeds, seeds)][:, :, rng.integers(0, rows, rows)]
        found.append(drawn[0].mean() - drawn[1].mean())
    return np.array(found)


@pytest.mark.parametrize(("seeds", "narrower"), [(25, (0.8, 1.1)), (3, (0.1, 0.75))])
def test_a_paired_multi_bootstrap_says_the_same_but_for_few_seeds(seeds: int, narrower: tuple[float, float]) -> None:
    """With three seeds its interval is narrower: drawn with replacement they have two thirds of their variance and no tails,
    where ours are Student's t. With many the two agree.
    """
    rng = np.random.default_rng(4)
    labels, difficulty = rng.integers(0, 2, 600), rng.normal(0.9, 1.0, 600)
    runs = difficulty + np.array([0.0, 0.05])[:, None, None] + rng.normal(0, 0.12, (2, seeds, 1))
    predicted = np.where(runs + rng.normal(0, 0.35, (2, seeds, 600)) > 0, labels, 1 - labels)
    ours = sample_task("accuracy", labels, predicted, np.ones((2, seeds), np.bool_), 2, 4000, Seeds(0, 1)).contrast(0, 1).draws
    theirs = multi_bootstrap((predicted == labels).astype(float), 1500)
    assert np.mean(ours) == pytest.approx(np.mean(theirs), abs=0.002)
    widths = [np.ptp(interval(one)) for one in (theirs, ours)]
    assert narrower[0] < widths[0] / widths[1] < narrower[1]


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


@pytest.mark.parametrize("repeats", [3, 5, 10])
@pytest.mark.parametrize("tasks", [1, 3, 7])
@pytest.mark.parametrize("largest", [1.0, 4.0])
def test_what_is_known_of_rows_and_estimated_from_repeats_holds_the_truth(repeats: int, tasks: int, largest: float) -> None:
    """`largest`: standard deviation of a run on one task, as against 1 on the others. Shares of the rows from none to nearly
    all: one t of Welch's and Satterthwaite's degrees holds it 92 times in 100, the sum of a normal and a t 97.6 times.
    """
    rng, studies = np.random.default_rng(0), 20_000
    spread = np.where(np.arange(tasks) == 0, largest, 1.0)[:, None] ** 2 * np.ones((tasks, studies))
    spread /= spread.sum(0)
    for of_rows in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9):  # of a variance of 1
        true = (1 - of_rows) * spread
        off = rng.normal(0, of_rows**0.5, studies) + rng.normal(0, true**0.5).sum(0)
        found = true * rng.chisquare(repeats - 1, true.shape) / (repeats - 1)
        freedom = freedom_of_sum(found, repeats - 1)
        half = widened(stats.norm.ppf(0.975), of_rows, found.sum(0), freedom) * (of_rows + found.sum(0)) ** 0.5
        assert (
            0.93 <= (np.abs(off) <= half).mean() <= 0.97 + (2 * 0.0012 if tasks == 1 else 0)
        )  # of one: and the simulation's error


def test_degrees_of_freedom_are_welchs() -> None:
    a, b = np.random.default_rng(0).normal([[0.0], [1.0]], [[1.0], [3.0]], (2, 5))
    want = stats.ttest_ind(a, b, equal_var=False).df
    assert float(freedom_of_sum(np.array([a.var(ddof=1), b.var(ddof=1)]) / 5, 4)) == pytest.approx(want)
    assert np.isinf(freedom_of_sum(np.zeros(3), 4))


def test_draws_have_the_quantiles_of_their_parts() -> None:
    """Of Cochran and Cox (1950): those of a normal and of Student's t, weighed by their variances."""
    rng = np.random.default_rng(0)
    rows, runs = rng.normal(3.0, 1.0, 400_000), rng.normal(0, 2.0, 400_000)
    for tail in (0.05, 0.2):
        got = np.ptp(np.quantile(with_tails(rows, runs, np.array([4.0]), 2), [tail / 2, 1 - tail / 2])) / 2
        want = (stats.norm.isf(tail / 2) + 4 * stats.t(2).isf(tail / 2)) / 5 * 5**0.5
        assert got == pytest.approx(want, rel=0.02)
