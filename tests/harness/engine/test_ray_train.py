"""Trials of two workers through Ray Train, with a training that pretends. Real training: test_equal_results.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.harness.engine.conftest import StandInRun

Run = Callable[..., StandInRun]


@pytest.fixture(scope="module")
def pairs(stand_in_run: Run) -> StandInRun:
    resources = {"workers": 2, "concurrent_trials": 1, "retries": 1}
    return stand_in_run(["plain", "other", "raises", "killed_rank"], resources=resources, search={"trials": 1})()


def test_ranks_stay_for_the_next_trial(pairs: StandInRun) -> None:
    processes = pairs.log.groupby(["label", "rank"]).process.unique()
    for rank in (0, 1):
        assert len(processes["plain", rank]) == 1
        assert processes["plain", rank] == processes["other", rank]
    assert processes["plain", 0] != processes["plain", 1]


def test_one_rank_reports_and_a_mistake_ends_only_its_trial(pairs: StandInRun) -> None:
    ends = {record.spec.label: record.status for record in pairs.store.records()}
    assert ends == {"plain": "ok", "other": "ok", "raises": "failed", "killed_rank": "ok"}
    error = pairs.record("raises").error
    assert error is not None
    assert (error.kind, error.type) == ("bug", "KeyError")
    assert "in _behave" in error.traceback


def test_a_lost_rank_costs_no_more_than_an_epoch(pairs: StandInRun) -> None:
    killed = pairs.log[pairs.log.label == "killed_rank"]
    assert list(killed[(killed["rank"] == 1) & (killed.kind == "starts")].epoch.sort_values()) in ([0, 1], [0, 2], [0, 3])
    assert pairs.record("killed_rank").objective == pairs.record("plain").objective
