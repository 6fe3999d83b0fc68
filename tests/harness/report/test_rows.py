from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UserError
from harness.report.rows import compare_runs, find_record, find_spec
from harness.report.selection import select


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
