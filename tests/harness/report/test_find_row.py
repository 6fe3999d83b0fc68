from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UserError
from harness.report.find_row import compare_runs, find_record, find_spec
from harness.report.selection import select
from harness.training.failures import DivergedError, classify, failed_record


def test_a_row_is_found_by_key_place_and_trial(study: Path) -> None:
    row = select(study).rows["cola", "rw_kd", 1]
    assert row.record is not None
    assert find_record(study, "cola/rw_kd/1") == row.record
    assert find_record(study, row.record.key[:14]) == row.record
    assert find_spec(study, f"cola/rw_kd/1/{row.record.spec.index}") == row.record.spec
    assert find_spec(study, "cola/rw_kd").repeat == 0
    assert find_spec(study, "rte/wsl/1").label == "wsl"  # failed ones too


@pytest.mark.parametrize("row", ["zz", "", "cola/rw_kd/x", "cola/nobody/0", "cola/rw_kd/9", "cola/rw_kd/0/99"])
def test_what_is_not_there_is_said(study: Path, row: str) -> None:
    with pytest.raises(UserError):
        find_record(study, row)


def test_a_cell_that_was_not_run_has_no_row(holes: Path) -> None:
    with pytest.raises(UserError, match="was not run"):
        find_record(holes, "sst2/wsl/1")


def test_two_runs_are_compared(study: Path) -> None:
    record = find_record(study, "cola/rw_kd/0")
    assert compare_runs(record, record).same
    other = record.model_copy(deep=True)
    other.report["validation"].metrics["matthews"] += 0.01
    other.environment["torch"] = "2.8"
    result = compare_runs(record, other)
    assert not result.same
    assert "validation matthews" in result.text
    assert "DIFFERENT" in result.text
    assert "torch 2.7 -> 2.8" in result.text
    assert compare_runs(record, other, tolerance=0.02).same


def test_a_stopped_trial_is_compared_up_to_its_stop(study: Path) -> None:
    whole = find_record(study, "cola/rw_kd/0")
    cut = {"status": "stopped", "objective": None, "report": {}, "epochs": whole.epochs[:2], "stopped_after_epoch": 2}
    stopped = whole.model_copy(update=cut, deep=True)
    result = compare_runs(stopped, stopped.model_copy(deep=True))
    assert result.same
    assert f"stopped this trial early, after epoch 2 of {whole.spec.training.epochs}" in result.text
    assert "epoch 2 training loss" in result.text
    other = stopped.model_copy(deep=True)
    other.epochs[0].train_loss += 0.01
    assert not compare_runs(stopped, other).same
    assert not compare_runs(stopped, stopped.model_copy(update={"epochs": stopped.epochs[:1]})).same
    assert not compare_runs(stopped, whole).same


def test_a_failed_trial_is_the_same_where_it_fails_alike(study: Path) -> None:
    spec = find_record(study, "rte/wsl/1").spec
    diverged, broken = (failed_record(spec, classify(error("x")), {}) for error in (DivergedError, KeyError))
    assert compare_runs(diverged, diverged).same
    assert "It failed in the same way." in compare_runs(diverged, diverged).text
    result = compare_runs(diverged, broken)
    assert not result.same
    assert "stored: failed, DivergedError: x; now: failed, KeyError: 'x'" in result.text
