"""Which trained students a study leaves on the disk: with `keep_students: chosen`, one of each cell and repeat."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.records import TrialRecord, TrialSpec
from harness.store.store import Store
from harness.study.schema import Study


class KeptStudents:
    """In `<store>/students/<key>`. The best of a search so far stays, by the rule that a report chooses a trial by."""

    def __init__(self, study: Study, store: Store) -> None:
        self._wanted = study.keep_students == "chosen"
        self._purpose = "final" if study.search.repeat == "winner" else "search"
        self._store = store
        self._best: dict[str, TrialRecord] = {}
        """Cell -> its best trial so far."""

    def folder(self, spec: TrialSpec) -> Path | None:
        """Where the student of a trial that is about to start goes; None where it is not kept."""
        return self._store.student_folder(spec.key).resolve() if self._wanted and spec.purpose == self._purpose else None

    def ended(self, record: TrialRecord) -> None:
        """Remove the student of this trial or of the one that was best before; none is left of a failed one."""
        if not self._wanted:
            return
        best = self._best.get(record.spec.cell_id)
        if record.status != "ok" or record.spec.purpose != self._purpose:
            self._remove(record)
        elif best is None or _order(record) < _order(best):
            self._best[record.spec.cell_id] = record
            if best is not None:
                self._remove(best)
        elif record.key != best.key:
            self._remove(record)

    def _remove(self, record: TrialRecord) -> None:
        shutil.rmtree(self._store.student_folder(record.key), ignore_errors=True)


def _order(record: TrialRecord) -> tuple[float, int]:
    """The best first, the earliest of equals."""
    assert record.objective is not None
    return -record.objective, record.spec.index
