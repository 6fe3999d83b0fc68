from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.stats.aggregate import win_rates
from harness.stats.paired import difference_variances
from harness.stats.ranks import RankRange, critical_difference, mean_ranks, rank_ranges, rank_strategies
from tests.conftest import PROJECT


# The values of Demsar's table 5 (q_0.05 = 2.343 for 3, 3.031 for 8, 3.164 for 10)
@pytest.mark.parametrize(("strategies", "want"), [(3, 1.25), (5, 2.31), (8, 3.97), (10, 5.12), (15, 8.11)])
def test_critical_difference_for_seven_tasks(strategies: int, want: float) -> None:
    assert critical_difference(strategies, 7) == pytest.approx(want, abs=0.006)


def test_ranks_and_friedman() -> None:
    scores = np.round(np.random.default_rng(0).normal(0.8, 0.05, size=(5, 7)), 2)
    found = rank_strategies(scores)
    want = pd.DataFrame(scores).rank(ascending=False).mean(axis=1)
    np.testing.assert_allclose(found.mean_ranks, want)
    assert found.friedman_p == pytest.approx(stats.friedmanchisquare(*scores).pvalue)


def published(study: str) -> np.ndarray:
    """[strategies, tasks, repeats] of its scores.csv."""
    scores = pd.read_csv(PROJECT / "results" / study / "scores.csv")
    table = scores.pivot_table(index="label", columns=["task", "repeat"], values="score")
    return table.to_numpy().reshape(len(table), scores["task"].nunique(), -1)


@pytest.mark.parametrize("study", [None, "glue_minilm_core", "glue_powered"])
def test_ranks_means_and_win_rates_are_bencheval_s(study: str | None) -> None:
    """Of TabArena's own evaluator, once its inputs are rounded as ours are: errors, lower is better."""
    bencheval = pytest.importorskip("bencheval.evaluator", reason="bencheval needs Python before 3.14")
    drawn = np.random.default_rng(1).normal(0.8, 0.01, size=(6, 7, 3))
    scores = np.round(drawn if study is None else published(study), 3)  # with ties
    places = np.stack(np.indices(scores.shape), -1).reshape(-1, 3)
    table = pd.DataFrame(places, columns=["method", "task", "seed"]).astype({"method": str, "task": str})
    table["metric_error"] = np.round(1 - scores.ravel(), 9)
    theirs = bencheval.BenchmarkEvaluator(columns_to_agg_extra=None)
    table_of_means = table.groupby(["method", "task"])["metric_error"].mean().round(9).reset_index()
    per_task = theirs.compute_results_per_task(table_of_means)
    names = [str(i) for i in range(len(scores))]
    np.testing.assert_allclose(mean_ranks(scores.mean(-1)), theirs.compute_rank(per_task)[names], rtol=1e-15)
    np.testing.assert_allclose(1 - scores.mean((1, 2)), theirs.aggregate(per_task)["metric_error"][names], atol=2e-9)
    others = ~np.eye(len(scores), dtype=bool)
    seeded = bencheval.BenchmarkEvaluator(columns_to_agg_extra=None, seed_column="seed")
    rates = seeded.compute_winrate_matrix(seeded.compute_results_per_task(table, include_seed_col=True)).loc[names, names]
    np.testing.assert_allclose(
        win_rates(np.round(scores, 9))[others], rates.to_numpy()[others], rtol=1e-6
    )  # theirs are float32


@pytest.mark.parametrize("seed", range(3))
def test_what_the_critical_difference_tells_apart_is_what_scikit_posthocs_does(seed: int) -> None:
    posthocs = pytest.importorskip("scikit_posthocs")
    scores = np.linspace(0.8, 0.7, 6)[:, None] + np.random.default_rng(seed).normal(0, 0.03, size=(6, 12))
    found = rank_strategies(scores)
    p = posthocs.posthoc_nemenyi_friedman(scores.T).to_numpy()
    apart = np.abs(np.subtract.outer(found.mean_ranks, found.mean_ranks)) > found.critical_difference
    np.testing.assert_array_equal(apart, p < 0.05)
    assert apart.any()
    assert not apart.all()


def test_cliques_are_maximal_and_within_the_difference() -> None:
    tasks = 40
    base = np.array([0.9, 0.89, 0.7, 0.69, 0.5])
    found = rank_strategies(base[:, None] + np.random.default_rng(0).normal(0, 0.05, size=(5, tasks)))
    for clique in found.cliques:
        assert np.ptp(found.mean_ranks[list(clique)]) < found.critical_difference
    assert [set(c) for c in found.cliques] == [{0, 1}, {2, 3}]


def test_rounding_errors_are_ties() -> None:
    scores = np.array([[(0.1 + 0.2) / 2, 0.5], [(0.15 + 0.15) / 2, 0.5], [0.1, 0.1]])
    assert scores[0, 0] != scores[1, 0]
    assert mean_ranks(scores).tolist() == [1.5, 1.5, 3.0]


def test_equal_strategies_are_one_clique() -> None:
    found = rank_strategies(np.full((4, 7), 0.5))
    assert found.friedman_p == 1.0
    assert found.cliques == ((0, 1, 2, 3),)
    assert mean_ranks(np.full((4, 7), 0.5)).tolist() == [2.5] * 4


def test_holes_and_small_tables_are_refused() -> None:
    scores = np.ones((4, 7))
    scores[1, 1] = np.nan
    with pytest.raises(ValueError, match="missing"):
        rank_strategies(scores)
    with pytest.raises(ValueError, match="at least 3"):
        rank_strategies(np.ones((2, 7)))


def test_ranks_are_shared_with_all_that_are_not_told_apart() -> None:
    """Two level ones above two level ones: nobody is first alone."""
    means, nothing = np.array([0.80, 0.60, 0.801, 0.602]), np.zeros((4, 4))
    high, low = RankRange(1, 2), RankRange(3, 4)
    apart = difference_variances(np.eye(4))
    assert rank_ranges(means, apart * 1e-4, nothing, nothing) == [high, low, high, low]
    assert rank_ranges(means, nothing, nothing, nothing) == [RankRange(2, 2), RankRange(4, 4), RankRange(1, 1), RankRange(3, 3)]
    assert rank_ranges(means, apart, nothing, nothing) == [RankRange(1, 4)] * 4


def test_they_are_those_of_one_sided_paired_t_tests() -> None:
    runs = np.random.default_rng(0).normal([[0.8], [0.79], [0.76]], 0.012, (3, 6))
    found = rank_ranges(runs.mean(1), np.zeros((3, 3)), difference_variances(np.cov(runs) / 6), np.full((3, 3), 5.0))
    runs = list(runs)  # type: ignore[assignment]
    better = [[a is not b and stats.ttest_rel(a, b, alternative="greater").pvalue < 0.05 for b in runs] for a in runs]
    for i, one in enumerate(found):
        assert one.best == 1 + sum(bool(better[j][i]) for j in range(3) if j != i)
        assert one.worst == 3 - sum(bool(better[i][j]) for j in range(3) if j != i)
