"""What is kept of a running study for those who watch it. Nothing of it is needed to go on with the study."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.plan.plan import Plan
    from harness.records import EpochRecord, TrialRecord, TrialSpec
    from harness.store.store import Store


class Watcher:
    """Is told by the process that runs the study what happens to its trials. This one does nothing with it."""

    def started(self, spec: TrialSpec) -> None:
        """A trial has been dealt out."""

    def epoch(self, spec: TrialSpec, record: EpochRecord) -> None:
        """A trial has ended an epoch."""

    def ended(self, record: TrialRecord) -> None:
        """A trial was run and has ended, well or not; it is in the store."""

    def told(self, cell_id: str, spec: TrialSpec, trial: Any) -> None:
        """A cell's search knows the result of a trial, run now or found in the store. `trial`: Optuna's FrozenTrial."""

    def happened(self, kind: str, **fields: Any) -> None:
        """Anything else (`harness.watching.event_log` lists the kinds)."""

    def close(self) -> None:
        """No more will come."""


class Watchers(Watcher):
    """Several as one."""

    def __init__(self, *watchers: Watcher) -> None:
        self._watchers = watchers

    def started(self, spec: TrialSpec) -> None:
        for watcher in self._watchers:
            watcher.started(spec)

    def epoch(self, spec: TrialSpec, record: EpochRecord) -> None:
        for watcher in self._watchers:
            watcher.epoch(spec, record)

    def ended(self, record: TrialRecord) -> None:
        for watcher in self._watchers:
            watcher.ended(record)

    def told(self, cell_id: str, spec: TrialSpec, trial: Any) -> None:
        for watcher in self._watchers:
            watcher.told(cell_id, spec, trial)

    def happened(self, kind: str, **fields: Any) -> None:
        for watcher in self._watchers:
            watcher.happened(kind, **fields)


@contextmanager
def watching(plan: Plan, store: Store, say: Callable[[str], None]) -> Iterator[Watcher]:
    """All watchers that the study asks for. `say`: tells the user a line, if one of them fails."""
    from harness.watching.event_log import EventLog
    from harness.watching.optuna_storage import OptunaStorage

    with ExitStack() as stack:
        watchers: list[Watcher] = [EventLog(store), OptunaStorage(store.path / "optuna.db", [cell.id for cell in plan.cells])]
        if plan.study.tensorboard:
            from harness.watching.tensorboard import TensorBoard

            watchers.append(TensorBoard(store.path / "tensorboard"))
        for name in plan.study.watch:
            from harness.watching.trackers import Tracker

            watchers.append(Tracker(name, say))
        for watcher in watchers:
            stack.callback(watcher.close)
        yield Watchers(*watchers)
