"""The students that a study leaves on the disk are those that its report chooses, and no more at any time than it must."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.engine import inline
from harness.report.selection import select
from harness.store.store import Store
from harness.watching.console import Console
from tests.harness.engine.stand_in import stand_in_plan, stand_in_study, stand_in_train


@pytest.mark.parametrize("search", [{"repeats": 2, "trials": 4}, {"repeats": 2, "trials": 3, "repeat": "winner"}])
def test_the_students_that_are_left_are_the_chosen_ones(search: dict[str, Any], tmp_path: Path) -> None:
    plan, prepared = stand_in_plan(stand_in_study(["plain", "raises"], search=search, keep_students="chosen"))
    store = Store(tmp_path / "store")
    there = []

    def train(*given: Any, student_folder: Path | None = None, **more: Any) -> Any:
        outcome = stand_in_train(*given, **more)
        if student_folder is not None:
            student_folder.mkdir(parents=True)
            there.append(len(list(student_folder.parent.iterdir())))
        return outcome

    (tmp_path / "cache").mkdir()
    inline.run_plan(plan, prepared, store, Console(quiet=True), tmp_path / "cache", train=train)
    chosen = {row.record.key for row in select(store.path).of("plain") if row.record is not None}
    assert len(chosen) == 2
    assert {folder.name for folder in (store.path / "students").iterdir()} == chosen
    assert max(there) <= 3  # one a repeat, and the one that has just been trained
