"""Which trial comes next, over all cells of a plan. Knows no Ray: an engine asks for trials and says how they ended."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.engine.students import KeptStudents
from harness.errors import StoreError
from harness.loss_terms.registry import pass_refusal
from harness.plan.early_stopping import grace_epochs
from harness.plan.plan import Cell, Plan, final_specs, trial_spec
from harness.plan.prepared import PreparedTask, require_teachers
from harness.plan.search import CellSearch
from harness.records import EpochRecord, ErrorRecord, TrialRecord, TrialSpec
from harness.store.store import Store
from harness.training.failures import DISK_FULL, classify, failed_record
from harness.watching import Watcher
from harness.watching.console import Console
from strategies import resolve

if TYPE_CHECKING:
    import pandas as pd


class _CellTrials:
    """A cell's search, and after it its final runs."""

    def __init__(self, plan: Plan, cell: Cell, prepared: Mapping[str, PreparedTask]) -> None:
        self.cell = cell
        self.started = 0
        self.running: dict[str, TrialSpec] = {}
        self.waiting: TrialSpec | None = None
        """Asked for, and in no one's hands yet."""
        self._plan = plan
        self._prepared = prepared
        self._search = CellSearch.for_cell(plan, cell)
        self._searched: dict[int, TrialSpec] = {}
        """By their numbers in the search, which has not been told of them."""
        self._finals: deque[TrialSpec] | None = None

    @property
    def finished(self) -> bool:
        return self._finals is not None and not self._finals and not self.running

    def ask(self) -> tuple[str, TrialSpec] | None:
        """The next trial and its key, which takes a millisecond to tell; None where there is none (yet)."""
        spec = self._next()
        if spec is None:
            return None
        key = spec.key
        self.running[key] = spec
        return key, spec

    def epoch(self, key: str, record: EpochRecord) -> bool:
        """A running trial has ended an epoch; whether it is to stop there."""
        spec = self.running[key]
        if self._plan.study.search.early_stopping is None or spec.purpose != "search":
            return False
        score = record.select[spec.task.headline_metric]
        grace = grace_epochs(self._plan, spec)
        return self._search.report(spec.index, record.epoch + 1, score, grace, spec.training.epochs)

    def tell(self, record: TrialRecord) -> list[tuple[TrialSpec, Any]]:
        """Returns the trials that the search has taken note of now, and what it makes of them (Optuna's FrozenTrials)."""
        spec = self.running[record.key]
        for epoch in record.epochs:  # news to the search where the record is from the store
            self.epoch(record.key, epoch)
        del self.running[record.key]
        if spec.purpose != "search":
            return []
        told = self._search.tell(spec.index, record.objective, stopped=record.status == "stopped")
        return [(self._searched.pop(index), trial) for index, trial in told]

    def _next(self) -> TrialSpec | None:
        if self._finals is None:
            asked = self._search.ask()
            if asked is not None:
                index, values = asked
                self._searched[index] = trial_spec(self._plan, self.cell, index, values, self._prepared)
                return self._searched[index]
            if self.running:
                return None
            self._finals = deque(final_specs(self._plan, self.cell, self._prepared, self._search.best()))
        return self._finals.popleft() if self._finals else None


class Router:
    """Deals out the trials of many cells so that all slots stay busy.

    Every search is reproducible bit by bit: what a cell suggests next depends on its own results alone, in their order
    (`harness.plan.search`). A trial that the store holds as finished is answered from there, before any other is run;
    one that failed is run again.
    """

    def __init__(
        self,
        plan: Plan,
        cells: Sequence[Cell],
        prepared: Mapping[str, PreparedTask],
        store: Store,
        console: Console,
        watcher: Watcher | None = None,
    ) -> None:
        self._cells = [_CellTrials(plan, cell, prepared) for cell in cells]
        self._rule = plan.study.search.early_stopping
        self._rerun_other_code = plan.rerun_other_code
        self._prepared = prepared
        self._store = store
        self._console = console
        self._watcher = watcher or Watcher()
        self._students = KeptStudents(plan.study, store)
        self._runner: dict[str, _CellTrials] = {}
        """Key of a running trial -> its cell."""
        self._heard: dict[str, set[int]] = {}
        """Key of a running trial -> epochs that it has reported."""
        self._returned: list[tuple[float, TrialSpec]] = []
        """Running trials that have lost their processes, and from when on (time.monotonic()) they may start again."""
        self._lost: set[str] = set()
        """Keys of all trials that were put back."""
        self._told: set[str] = set()
        """Strategies of which it was said that their trials cannot be stacked."""
        for cell in self._cells:
            self._catch_up(cell)

    @property
    def finished(self) -> bool:
        return all(cell.finished for cell in self._cells)

    def next(self) -> TrialSpec | None:
        """A trial to run now; None where every cell waits for its results, or all is done (`finished`)."""
        due = [one for one in self._returned if one[0] <= time.monotonic()]
        if due:
            self._returned.remove(due[0])
            return due[0][1]
        return self._new(lambda spec: True)

    def next_together(self, count: int) -> list[TrialSpec]:
        """Up to so many trials to run now in one process, stacked (`harness.training.stacked`); none where `next` has none.

        One alone where its strategy does not allow more, or where it has lost a process: that may have been its own doing.
        """
        if count < 1 or (first := self.next()) is None:
            return []
        together = [first]
        if count > 1 and first.key not in self._lost and self.may_share(first):
            while len(together) < count:
                beside = self._new(lambda spec: spec.resources == first.resources and self.may_share(spec))
                if beside is None:
                    break
                together.append(beside)
        return together

    def may_share(self, spec: TrialSpec) -> bool:
        """Whether its student may share passes with others; where not, the console says why, once for a strategy."""
        registered = resolve(spec.strategy)
        refusal = pass_refusal(registered.needs(registered.settings(spec.settings)))
        if refusal and spec.strategy not in self._told:
            self._told.add(spec.strategy)
            self._console.note(f"strategy {spec.strategy!r} {refusal}: its trials cannot be stacked, and train one by one")
        return not refusal

    def _new(self, fits: Callable[[TrialSpec], bool]) -> TrialSpec | None:
        """The next trial that fits and has not been dealt out yet."""
        for cell in sorted(self._cells, key=lambda cell: cell.started):
            if cell.waiting is None:
                self._catch_up(cell)
            while (spec := cell.waiting) is not None and fits(spec):
                cell.waiting = None
                self._runner[spec.key] = cell
                if (error := self._missing_teacher(spec)) is None:
                    self._console.trial_started(cell.cell.id)
                    self._watcher.started(spec)
                    return spec
                self.fail(spec, error)
                self._catch_up(cell)
        return None

    def _catch_up(self, cell: _CellTrials) -> None:
        """Answer a cell from the store, up to the first trial that has to run."""
        while (asked := cell.ask()) is not None:
            key, spec = asked
            cell.started += 1
            if (record := self._known(key, spec)) is None:
                cell.waiting = spec
                return
            self._tell(cell, record)
            self._console.trial_finished(record, from_store=True)

    def finish(self, record: TrialRecord, predictions: pd.DataFrame | None) -> None:
        """A trial has ended for good: store it, show it, and let its cell go on."""
        if record.status == "stopped":
            record = record.model_copy(update={"early_stopping": self._rule})
        self._store.write(record, predictions)
        heard = self._heard.pop(record.key, set())
        for epoch in record.epochs:  # whose report was on its way when the trial lost its process
            if heard and min(heard) < epoch.epoch < max(heard) and epoch.epoch not in heard:
                self._watcher.epoch(record.spec, epoch)
        self._watcher.ended(record)
        self._tell(self._runner.pop(record.key), record)
        self._console.trial_finished(record, from_store=False)

    def epoch(self, key: str, record: EpochRecord) -> bool:
        """A running trial has ended an epoch; whether it is to stop there (`harness.plan.early_stopping`)."""
        self._watcher.epoch(self.running(key), record)
        self._heard.setdefault(key, set()).add(record.epoch)
        return self._runner[key].epoch(key, record)

    def may_stop(self, spec: TrialSpec) -> bool:
        """Whether `epoch` may stop it."""
        return self._rule is not None and spec.purpose == "search"

    def happened(self, kind: str, key: str, error: str) -> None:
        """A running trial met with an event that does not end it."""
        self._watcher.happened(kind, cell=self.running(key).cell_id, key=key, error=error)

    def fail(self, spec: TrialSpec, error: ErrorRecord) -> None:
        """A trial has failed for good. Raises StoreError where the disk is full, and keeps no record: it is not its fault."""
        if error.type == DISK_FULL:
            raise StoreError(
                f"no space left on the disk (or in the quota), says trial {spec.cell_id}/{spec.index}: {error.message}. Trials "
                f"that were stored before are kept: free some space and give the same command again, it goes on from there."
            )
        self.finish(failed_record(spec, error, self._prepared[spec.task.name].majority), None)

    def put_back(self, key: str, seconds: float) -> None:
        """A running trial has lost its processes, and is dealt out again, after so many seconds at the earliest."""
        self._lost.add(key)
        self._returned.append((time.monotonic() + seconds, self.running(key)))

    def running(self, key: str) -> TrialSpec:
        return self._runner[key].running[key]

    def student_folder(self, spec: TrialSpec) -> Path | None:
        """Where a trial that starts now is to leave its student (`Study.keep_students`); None: nowhere."""
        return self._students.folder(spec)

    def _tell(self, cell: _CellTrials, record: TrialRecord) -> None:
        for spec, trial in cell.tell(record):
            self._watcher.told(cell.cell.id, spec, trial)
        self._students.ended(record)

    def _known(self, key: str, spec: TrialSpec) -> TrialRecord | None:
        """What the store holds of it, if that is its end: a stopped trial's only where this study stops by the same rule."""
        record = self._store.get(key)
        if record is not None and self._rerun_other_code and record.spec.harness_code != spec.harness_code:
            return None
        if record is None or record.status == "ok":
            return record
        stopped = record.status == "stopped" and record.early_stopping == self._rule and spec.purpose == "search"
        return record if stopped else None

    def _missing_teacher(self, spec: TrialSpec) -> ErrorRecord | None:
        try:
            require_teachers(spec, self._prepared[spec.task.name])
        except Exception as error:
            return classify(error)
        return None
