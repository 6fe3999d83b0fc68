from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import normal_power

from harness.stats.mcnemar import mcnemar
from harness.stats.multiple import holm
from harness.stats.power import minimum_detectable_effect


@settings(max_examples=15, deadline=None)  # theirs takes 0.1 s
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_is_statsmodels_holm(p: list[float]) -> None:
    np.testing.assert_allclose(holm(np.array(p)), multipletests(p, method="holm")[1], atol=1e-12)


def test_holm_leaves_out_tests_that_were_not_made() -> None:
    got = holm(np.array([0.01, np.nan, 0.02]))
    np.testing.assert_allclose(got, [0.02, np.nan, 0.02])


def outcomes(seed: int, repeats: int, rows: int = 80) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(size=(repeats, rows)) < 0.8, rng.uniform(size=(repeats, rows)) < 0.7


@pytest.mark.parametrize("seed", range(5))
def test_one_repeat_is_the_exact_test(seed: int) -> None:
    a, b = outcomes(seed, 1)
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    assert mcnemar(a, b).p == pytest.approx(their_mcnemar(table, exact=True).pvalue)


def test_several_repeats_of_the_same_outcome_count_once() -> None:
    """Copies of a run carry no evidence: the examples are the units."""
    a, b = outcomes(1, 1)
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    want = their_mcnemar(table, exact=False, correction=False).pvalue
    assert mcnemar(np.repeat(a, 5, 0), np.repeat(b, 5, 0)).p == pytest.approx(want)
    assert mcnemar(a, a).p == 1.0


@pytest.mark.parametrize("error", [0.004, 0.01])
def test_the_detectable_effect_of_normal_draws_has_the_stated_power(error: float) -> None:
    effect = float(minimum_detectable_effect(norm.ppf((np.arange(100_000) + 0.5) / 100_000) * error))
    assert normal_power(effect, 1, 0.05, sigma=error) == pytest.approx(0.8, abs=1e-3)
