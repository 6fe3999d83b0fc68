"""How far a run is: counts, and which trials it consists of. What the console shows and the manifest keeps."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from harness.plan.plan import Plan
from harness.records import TrialRecord


@dataclass
class Progress:
    """Counts of one run, by task where that is of interest."""

    planned: Counter[str] = field(default_factory=Counter)
    """Trials by task."""
    done: Counter[str] = field(default_factory=Counter)
    """Trials by task that have ended, failed ones too."""
    running: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    from_store: int = 0
    """Of those done, how many an earlier run had finished."""
    best: dict[str, tuple[float, str]] = field(default_factory=dict)
    """Task -> best score on `select` and the strategy's label."""
    keys: list[str] = field(default_factory=list)
    """Of all trials done, in the order in which they ended."""
    started: float = field(default_factory=time.monotonic)
    _open: Counter[str] = field(default_factory=Counter)
    """Cell -> trials to go."""

    @classmethod
    def of(cls, plan: Plan) -> Progress:
        """Nothing done yet."""
        progress = cls()
        for cell in plan.cells:
            progress.planned[cell.task.name] += cell.trials + cell.final_repeats
            progress._open[_cell_name(cell.task.name, cell.entry.shown, cell.repeat, cell.final_repeats > 0)] += (
                cell.trials + cell.final_repeats
            )
        return progress

    @property
    def cells(self) -> int:
        return len(self._open)

    @property
    def cells_done(self) -> int:
        return sum(to_go <= 0 for to_go in self._open.values())

    @property
    def complete(self) -> bool:
        """Whether every planned trial has ended well."""
        return self.done.total() == self.planned.total() and not self.failed.total()

    def start(self, cell_id: str) -> None:
        self.running[cell_id.partition("/")[0]] += 1

    def finish(self, record: TrialRecord, from_store: bool) -> None:
        """A trial has ended, or the store already had it."""
        spec = record.spec
        task = spec.task.name
        self.keys.append(record.key)
        self.done[task] += 1
        self.from_store += from_store
        self.failed[task] += record.status == "failed"
        if not from_store and self.running[task]:
            self.running[task] -= 1
        if record.objective is not None and (task not in self.best or record.objective > self.best[task][0]):
            self.best[task] = (record.objective, spec.label)
        for name in (_cell_name(task, spec.label, spec.repeat, False), _cell_name(task, spec.label, 0, True)):
            if name in self._open:
                self._open[name] -= 1

    def seconds_left(self) -> float | None:
        """From the pace so far; None while there is none."""
        fresh = self.done.total() - self.from_store
        to_go = self.planned.total() - self.done.total()
        if not fresh or to_go <= 0:
            return None
        return (time.monotonic() - self.started) / fresh * to_go


def _cell_name(task: str, label: str, repeat: int, winner: bool) -> str:
    """`repeat: winner` has one cell for all repeats."""
    return f"{task}/{label}/{'all' if winner else repeat}"
