from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, permutation_test, ttest_1samp
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import normal_power
from statsmodels.stats.weightstats import ttost_paired

from harness.stats import smallest_p
from harness.stats.bootstrap import two_sided_p
from harness.stats.equivalence import equivalence_p, share_outside
from harness.stats.multiple import MOST_BETWEEN, holm, max_t
from harness.stats.paired import Seeds, drawn_sum, mcnemar, sample_task
from harness.stats.power import Spread, minimum_detectable_effect


@pytest.mark.parametrize("tests", [1, 2, 7, 30])
def test_holm_is_statsmodels_holm(tests: int) -> None:
    p = np.random.default_rng(tests).uniform(size=tests).round(1)  # rounded: with ties, ones and zeros among them
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1], atol=1e-12)


def test_holm_leaves_out_tests_that_were_not_made() -> None:
    got = holm(np.array([0.01, np.nan, 0.02]))
    np.testing.assert_allclose(got, [0.02, np.nan, 0.02])


@pytest.mark.parametrize("seed", range(5))
def test_mcnemar_is_the_exact_test(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(size=80) < 0.8, rng.uniform(size=80) < 0.7
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    assert mcnemar(a, b).p == pytest.approx(their_mcnemar(table, exact=True).pvalue)
    assert mcnemar(a, a).p == 1.0


@pytest.mark.parametrize("units", [3, 8])
def test_one_row_of_max_t_is_scipys_permutation_test(units: int) -> None:
    differences = np.random.default_rng(units).normal(0.5, 1.0, units)
    theirs = permutation_test((differences,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert max_t(differences[None]).p[0] == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize("sets", [1, 2, 6])
def test_max_t_steps_down_as_it_is_written(sets: int) -> None:
    """Westfall & Young (1993), algorithm 2.8, in loops over all 2^units flips."""
    differences = np.random.default_rng(1).normal(0.3, 1.0, (4, 6)) + np.random.default_rng(2).normal(0, 1.0, 6)
    differences[:, :3] += 2.0  # on one of two sets more than on the other

    def statistic(row: np.ndarray) -> float:
        each = row.reshape(sets, -1)
        if sets in (1, 6):
            return abs(float(ttest_1samp(row, 0.0).statistic))
        within, between = each.var(1).sum() * 3, 3 * ((each.mean(1) - row.mean()) ** 2).sum()
        return abs(row.sum()) / np.sqrt(within + min(between, MOST_BETWEEN * within / 4))

    def statistics(rows: np.ndarray) -> np.ndarray:
        return np.array([statistic(row) for row in rows])

    observed = statistics(differences)
    order = np.argsort(-observed)
    flipped = [statistics(differences * np.array(signs)) for signs in itertools.product((1, -1), repeat=6)]
    reached, want = 0.0, np.zeros(4)
    for place, i in enumerate(order):
        left = order[place:]
        reached = max(reached, np.mean([one[left].max() >= observed[i] - 1e-9 for one in flipped]))
        want[i] = reached
    found = max_t(differences, sets)
    np.testing.assert_allclose(found.p, want)
    np.testing.assert_allclose(found.single, [np.mean([f[i] >= observed[i] - 1e-9 for f in flipped]) for i in range(4)])


def marked(gains: np.ndarray, studies: int, sets: int, repeats: int, strategies: int, spread: tuple[float, ...]) -> np.ndarray:
    """Share of studies in which max-T marks each strategy; `gains` [strategies or 1, sets] in standard deviations of a run,
    which on the sets are `spread`.
    """
    rng = np.random.default_rng(0)
    scale = np.array(spread)[:, None]
    found = np.zeros(strategies)
    any_found = 0
    for _ in range(studies):
        runs = rng.normal(size=(strategies + 1, sets, repeats)) * scale
        differences = runs[1:] - runs[0] + gains[..., None]
        significant = max_t(differences.reshape(strategies, -1), sets).p < 0.05
        found += significant
        any_found += significant.any()
    return np.append(found, any_found) / studies


def test_max_t_finds_what_differs_more_on_one_set_than_on_another() -> None:
    """With the spread between sets in the standard error, no size of such a difference would ever be found (12 strategies)."""
    gains = np.zeros((12, 3))
    gains[0], gains[1] = (8.0, 2.0, 2.0), (4.0, 4.0, 4.0)
    uneven, even, *others, _ = marked(gains, 60, 3, 3, 12, (1.0, 1.0, 1.0))
    assert uneven > 0.8
    assert even > 0.8
    assert max(others) < 0.1


FAMILIES = {
    "even": (3, 3, 24, (1.0, 1.0, 1.0)),
    "a family of few": (3, 3, 4, (1.0, 1.0, 1.0)),
    "a set that varies more": (3, 3, 24, (4.0, 1.0, 1.0)),
    "two repeats": (7, 2, 24, (6.0, 1.0, 1.0, 1.0, 1.0, 2.0, 4.0)),
}


@pytest.mark.parametrize(
    ("sets", "repeats", "strategies", "spread", "studies"),
    [
        pytest.param(*FAMILIES["a set that varies more"], 150, id="fast"),
        *(pytest.param(*family, 1500, id=name, marks=pytest.mark.slow) for name, family in FAMILIES.items()),
    ],
)
def test_max_t_marks_something_among_equals_in_one_of_twenty_studies(
    sets: int, repeats: int, strategies: int, spread: tuple[float, ...], studies: int
) -> None:
    found = marked(np.zeros((1, sets)), studies, sets, repeats, strategies, spread)[-1]
    assert found <= 0.05 + 2 * (0.05 * 0.95 / studies) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("size", [1.0, 3.0])
def test_and_where_differences_on_sets_cancel(size: float) -> None:
    """Equal in the mean, unequal on each set: not what flips assume, and yet nothing is marked more often."""
    gains = np.random.default_rng(1).normal(0, size, (24, 4))
    gains -= gains.mean(1, keepdims=True)
    assert marked(gains, 600, 4, 3, 24, (1.0,) * 4)[-1] <= 0.05 + 2 * (0.05 * 0.95 / 600) ** 0.5


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 8), st.integers(0, 99))
def test_max_t_lies_between_single_p_and_one_and_no_p_is_below_the_floor(
    sets: int, repeats: int, tests: int, seed: int
) -> None:
    units = sets * repeats
    found = max_t(np.random.default_rng(seed).normal(0.2, 1.0, (tests, units)), sets)
    assert (found.p >= found.single - 1e-12).all()
    assert (found.single >= smallest_p(units) - 1e-12).all()
    assert np.isfinite(found.pointwise) == (smallest_p(units) < 0.05)
    if np.isfinite(found.pointwise):
        assert found.pointwise <= 0.05


def test_max_t_leaves_out_what_was_not_made_and_finds_nothing_in_nothing() -> None:
    rows = np.array([[0.1] * 8, [np.nan] + [0.1] * 7, [0.0] * 8])
    np.testing.assert_allclose(max_t(rows).p, [2 / 2**8, np.nan, 1.0])


def test_many_units_are_flipped_at_random_with_the_exact_p() -> None:
    differences = np.random.default_rng(3).normal(0.35, 1.0, (1, 30))
    theirs = permutation_test(
        (differences[0],), np.sum, permutation_type="samples", n_resamples=40_000, rng=np.random.default_rng(0)
    )
    assert max_t(differences).p[0] == pytest.approx(theirs.pvalue, abs=0.005)


@pytest.mark.parametrize("seed", range(5))
def test_equivalence_is_statsmodels_tost(seed: int) -> None:
    a, b = np.random.default_rng(seed).normal(0, 0.01, (2, 9))
    assert equivalence_p(a - b, 0.005) == pytest.approx(ttost_paired(a, b, -0.005, 0.005)[0])


def test_equivalence_by_draws_is_that_of_normal_draws() -> None:
    drawn = norm.ppf((np.arange(100_000) + 0.5) / 100_000) * 0.002 + 0.001
    assert float(share_outside(drawn, 0.005)) == pytest.approx(norm.sf((0.005 - 0.001) / 0.002), rel=0.01)
    assert equivalence_p(np.full(4, 0.001), 0.005) == 0.0
    assert np.isnan(equivalence_p(np.array([0.001]), 0.005))


@pytest.mark.parametrize("effect", [0.005, 0.02])
def test_so_many_repeats_have_the_power_and_one_less_has_not(effect: float) -> None:
    spread = Spread(examples=1e-6, repeat=4e-4, tasks=6, units=6)
    needed = spread.repeats_for(effect, 0.01)
    assert needed is not None
    assert spread.detectable(needed, 0.01) <= effect < spread.detectable(needed - 1, 0.01)
    assert Spread(examples=1e-4, repeat=1e-4, tasks=6, units=6).repeats_for(0.005, 0.01) is None
    many = Spread(examples=0.0, repeat=1e-2).repeats_for(0.005, 0.05)  # but for want of rows there is always a number
    assert many == pytest.approx(1e-2 * (norm.ppf(0.975) + norm.ppf(0.8)) ** 2 / 0.005**2, rel=1e-2)
    assert Spread(examples=0.0, repeat=1e-9, tasks=1, units=1).repeats_for(effect, 0.05) == 6  # fewer flips allow no p


@pytest.mark.parametrize("error", [0.004, 0.01])
def test_the_detectable_effect_of_normal_draws_has_the_stated_power(error: float) -> None:
    effect = float(minimum_detectable_effect(norm.ppf((np.arange(100_000) + 0.5) / 100_000) * error))
    assert normal_power(effect, 1, 0.05, sigma=error) == pytest.approx(0.8, abs=1e-3)


pytestmark = pytest.mark.timeout(1800)  # of the slow ones
STUDIES = 200
ALLOWED = 0.05 + 2 * (0.05 * 0.95 / STUDIES) ** 0.5


def equals(rng: np.random.Generator, labels: np.ndarray, difficulty: np.ndarray, repeats: int, spread: float) -> np.ndarray:
    """Runs of one strategy: examples have their own difficulty, a run is better or worse as a whole, and errs here and there.

    A `spread` of 0.15 is a standard deviation of about 4 points of accuracy between runs, 0.05 of about 1.3.
    """
    margins = difficulty + rng.normal(0, spread, (repeats, 1)) + rng.normal(0, 0.35, (repeats, len(labels)))
    return np.where(margins > 0, labels, 1 - labels)


def found_to_differ(repeats: int, spread: float, tasks: int = 1) -> float:
    """Share of studies of two strategies that are the same by construction in which the mean over tasks has p < 0.05."""
    rng, found = np.random.default_rng(0), 0
    for seed in range(STUDIES):
        parts = []
        for task in range(tasks):
            labels, difficulty = rng.integers(0, 2, 300), rng.normal(0.9, 1.0, 300)
            both = np.stack([equals(rng, labels, difficulty, repeats, spread) for _ in "ab"])
            present = np.ones((2, repeats), np.bool_)
            place = seed * tasks + task
            sample = sample_task("accuracy", labels, both, present, 2, 400, Seeds(place, place + 1))
            parts.append(sample.contrast(0, 1))
        found += float(two_sided_p(drawn_sum(parts, np.full(tasks, 1 / tasks)))) < 0.05
    return found / STUDIES


@pytest.mark.parametrize("repeats", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.15])
def test_equals_are_found_to_differ_in_one_of_twenty_studies_at_most(repeats: int, spread: float) -> None:
    assert found_to_differ(repeats, spread) <= ALLOWED


@pytest.mark.parametrize("spread", [0.05, 0.15])
def test_so_they_are_over_several_tasks(spread: float) -> None:
    assert found_to_differ(2, spread, tasks=3) <= ALLOWED


def test_one_repeat_knows_nothing_of_what_training_varies() -> None:
    """Why tables of one repeat say so: the examples alone cannot tell a lucky run from a better strategy."""
    assert found_to_differ(1, 0.0) <= ALLOWED
    assert found_to_differ(1, 0.15) > 0.3
