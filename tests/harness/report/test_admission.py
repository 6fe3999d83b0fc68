"""Which tasks a mean is taken over."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harness.report.admission import admitted, standard_error
from harness.report.selection import Selection, select
from tests.harness.report.stores import Planted, build_store


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> Selection:
    path = tmp_path_factory.mktemp("admission") / "planted"
    build_store(path, Planted(("sst2", "qnli"), ("fixed_alpha", "wsl"), repeats=2, trials=1, rows=100))
    return select(path)


def with_objective(selection: Selection, task: str, objective: float) -> Selection:
    """As if plain KD had this score on `select`."""
    rows = {
        place: replace(row, record=row.record.model_copy(update={"objective": objective}))
        if row.record is not None and (row.task, row.label) == (task, "fixed_alpha")
        else row
        for place, row in selection.rows.items()
    }
    return replace(selection, rows=rows)


@pytest.mark.parametrize("errors", [1.8, 2.2])
def test_plain_kd_has_to_be_two_standard_errors_above_the_majority_class(selection: Selection, errors: float) -> None:
    floor = next(r.majority["validation"].metrics["accuracy"] for r in selection.records if r.spec.task.name == "qnli")
    rows, score = 200, floor
    for _ in range(50):  # the error is that of the score itself
        score = floor + errors * standard_error("accuracy", score, rows)
    found = admitted(with_objective(selection, "qnli", score), 0)
    assert found.in_mean.tolist() == [True, errors > 2]
    assert ("qnli (plain KD" in found.said) == (errors < 2)


@pytest.mark.parametrize("floor", [0.2, 0.9])
def test_the_majority_class_is_that_of_select(selection: Selection, floor: float) -> None:
    """Where its classes are others than those of the report rows, these decide nothing."""
    score = selection.records[0].majority["validation"]
    always = {split: score.model_copy(update={"metrics": {"accuracy": share}}) for split, share in
              (("select", floor), ("validation", 1.1 - floor))}  # fmt: skip
    records = [
        r.model_copy(update={"majority": always, "teacher_report": []}) if r.spec.task.name == "qnli" else r
        for r in selection.records
    ]
    found = admitted(with_objective(replace(selection, records=records), "qnli", 0.6), 0)
    assert bool(found.in_mean[1]) == (floor < 0.5)


def test_where_no_task_is_left_all_are_and_it_is_said(selection: Selection) -> None:
    low = with_objective(with_objective(selection, "qnli", 0.1), "sst2", 0.1)
    found = admitted(low, 0)
    assert found.in_mean.all()
    assert "says little of strategies" in found.said


def test_report_scores_of_strategies_decide_nothing(selection: Selection) -> None:
    rows = {place: replace(row, score=0.0) for place, row in selection.rows.items()}
    assert np.array_equal(admitted(replace(selection, rows=rows), 0).in_mean, admitted(selection, 0).in_mean)


def test_a_teacher_at_the_majority_class_keeps_its_task_out(selection: Selection) -> None:
    records = [
        r.model_copy(update={"teacher_report": [r.majority]}) if r.spec.task.name == "sst2" else r for r in selection.records
    ]
    found = admitted(replace(selection, records=records), 0)
    assert found.in_mean.tolist() == [False, True]
    assert "sst2 (teacher" in found.said
