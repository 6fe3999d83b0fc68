from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.plan.grid import grid_points
from harness.plan.plan import make_plan
from harness.plan.search import STARTUP_TRIALS, CellSearch
from strategies.space import Choice, FloatRange, IntRange
from tests.harness.tiny import tiny_study

SPACE = {
    "rate": FloatRange(low=1e-4, high=1e-1, log=True),
    "size": IntRange(low=2, high=9),
    "kind": Choice(values=["a", "b", 3, False]),
}
DEFAULTS = {"rate": 1e-2, "size": 4, "kind": "a"}
SAMPLERS = ["tpe", "random", "grid"]


def objective(values: dict[str, Any]) -> float:
    if not values:
        values = DEFAULTS
    return -abs(math.log10(values["rate"]) + 2) + values["size"] / 10 + (values["kind"] == "b")


def made(sampler: Any = "tpe", seed: int = 3, trials: int = 12, space: Any = None, defaults: Any = None) -> CellSearch:
    return CellSearch(SPACE if space is None else space, DEFAULTS if defaults is None else defaults, sampler, seed, trials)


def played(search: CellSearch, score: Any = objective) -> list[dict[str, Any]]:
    asked = []
    while (question := search.ask()) is not None:
        index, values = question
        assert index == len(asked)
        asked.append(values)
        search.tell(index, score(values))
    return asked


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_trial_0_is_the_default_and_the_others_lie_in_the_space(sampler):
    asked = played(made(sampler))
    assert len(asked) == 12
    assert asked[0] == {}
    for values in asked[1:]:
        assert 1e-4 <= values["rate"] <= 1e-1
        assert values["size"] in range(2, 10)
        assert values["kind"] in ["a", "b", 3, False]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_told_the_same_it_asks_the_same(sampler):
    assert played(made(sampler)) == played(made(sampler))


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_another_seed_asks_something_else(sampler):
    assert played(made(sampler, seed=4)) != played(made(sampler))


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_more_trials_go_on_with_the_same_ones(sampler):
    assert played(made(sampler, trials=20))[:12] == played(made(sampler, trials=12))


def test_tpe_learns_from_what_it_is_told_and_random_does_not():
    rewarded, punished = ([objective, lambda values: -objective(values)][i] for i in (0, 1))
    assert played(made("random"), rewarded) == played(made("random"), punished)
    good, bad = played(made(trials=30), rewarded), played(made(trials=30), punished)
    assert good[:STARTUP_TRIALS] == bad[:STARTUP_TRIALS]
    assert good != bad
    mean = [sum(map(objective, asked[STARTUP_TRIALS:])) for asked in (good, bad)]
    assert mean[0] > mean[1]


def test_a_trial_without_a_score_is_no_result():
    search = made(trials=5)
    scores = [0.1, None, math.nan, 0.4, math.inf]
    for score in scores:
        index, _ = search.ask() or (0, {})
        search.tell(index, score)
    assert search.ask() is None
    best = search.best()
    assert best is not None
    assert best[0] == 3


def test_the_earliest_of_equals_is_best_and_nothing_is_best_of_nothing():
    search = made(trials=4)
    assert search.best() is None
    played(search, lambda values: 0.5)
    assert search.best() == (0, {})
    failed = made(trials=4)
    played(failed, lambda values: None)
    assert failed.best() is None


@pytest.mark.parametrize("defaults", [{"rate": None, "size": 4, "kind": "zzz"}, {"rate": 5.0, "size": 100, "kind": "a"}])
def test_a_default_may_lie_outside_of_its_range(defaults):
    asked = played(made(defaults=defaults))
    assert len(asked) == 12
    assert asked[0] == {}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_without_a_space_there_is_the_default_alone(sampler):
    assert played(made(sampler, space={}, defaults={}), lambda values: 1.0) == [{}]


def test_a_small_grid_is_tried_once():
    space, defaults = {"kind": Choice(values=[1, 2, 3])}, {"kind": 2}
    assert played(made("grid", trials=9, space=space, defaults=defaults), lambda values: 0.0) == [{}, {"kind": 1}, {"kind": 3}]


@given(st.integers(1, 60), st.integers(2, 9), st.booleans())
def test_a_grid_holds_different_points_of_the_space_and_reaches_its_ends(points, high, log):
    space = {
        "x": FloatRange(low=0.1, high=10.0, log=log),
        "n": IntRange(low=1, high=high, log=log),
        "c": Choice(values=["a", "b"]),
    }
    grid = grid_points(space, points)
    assert len(grid) == points  # a float range has any number of levels
    assert len({tuple(point.items()) for point in grid}) == points
    for point in grid:
        assert 0.1 <= point["x"] <= 10.0
        assert 1 <= point["n"] <= high
        assert isinstance(point["n"], int)
    if points > 4:
        assert {0.1, 10.0} <= {point["x"] for point in grid}


def test_a_grid_of_one_range_is_its_levels():
    assert grid_points({"x": FloatRange(low=0.0, high=1.0)}, 5) == [{"x": x} for x in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert [point["x"] for point in grid_points({"x": FloatRange(low=1.0, high=100.0, log=True)}, 3)] == pytest.approx(
        [1, 10, 100]
    )
    assert grid_points({"n": IntRange(low=1, high=3)}, 10) == [{"n": n} for n in (1, 2, 3)]


def test_a_cells_search_is_the_same_for_the_same_plan_and_another_for_another_repeat():
    study = tiny_study(search={"trials": 6, "repeats": 2})
    first, other = make_plan(study, Path.cwd()).cells
    plan = make_plan(study, Path.cwd())
    asked = [played(CellSearch.for_cell(plan, cell), lambda values: 0.0) for cell in (first, first, other)]
    assert asked[0] == asked[1] != asked[2]
    assert set(asked[0][1]) == {"kd_weight"}
