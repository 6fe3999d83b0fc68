"""What a person sees while a study runs: one live view in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any, NoReturn

from rich.console import Console as RichConsole
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness.plan import Plan
from harness.records import TrialRecord

PLAIN_EVERY_SECONDS = 15.0
"""Where the output is no terminal, progress is a line at most so often."""


class Console:
    """Progress of one study. Not to be sent to other processes."""

    def __init__(self, quiet: bool = False, rich: RichConsole | None = None) -> None:
        """`quiet`: errors and failures only."""
        self._rich = rich or RichConsole(highlight=False, soft_wrap=True)
        self._quiet = quiet
        self._live: Live | None = None
        self._planned: dict[str, int] = defaultdict(int)
        self._done: dict[str, int] = defaultdict(int)
        self._failed: dict[str, int] = defaultdict(int)
        self._running: dict[str, int] = defaultdict(int)
        self._best: dict[str, tuple[float, str]] = {}
        self._from_store = 0
        self._started = time.monotonic()
        self._last_line = 0.0
        self._stage = ""

    def stage(self, text: str) -> None:
        """A new part of the work begins."""
        self._stage = text
        self.note(text)

    def note(self, text: str) -> None:
        """One line that stays."""
        if not self._quiet:
            self._rich.print(Text(text))

    def start(self, plan: Plan) -> None:
        """Trials are about to run."""
        self._started = time.monotonic()
        for cell in plan.cells:
            self._planned[cell.task.name] += cell.trials + cell.final_repeats
        if self._rich.is_terminal and not self._quiet:
            self._live = Live(get_renderable=self._view, console=self._rich, refresh_per_second=2, transient=True)
            self._live.start()
        else:
            self.note(f"{plan.trials} trials in {len(plan.cells)} cells")

    def trial_started(self, cell_id: str) -> None:
        self._running[cell_id.split("/")[0]] += 1

    def trial_finished(self, record: TrialRecord, from_store: bool) -> None:
        """A trial ended, or the store already had it."""
        task = record.spec.task.name
        self._done[task] += 1
        self._from_store += from_store
        if not from_store:
            self._running[task] = max(0, self._running[task] - 1)
        if record.objective is not None and record.objective > self._best.get(task, (-2.0, ""))[0]:
            self._best[task] = (record.objective, record.spec.label)
        if record.error is not None:
            self._failed[task] += 1
            self._failure(record)
        if self._live is None and not self._quiet and time.monotonic() - self._last_line > PLAIN_EVERY_SECONDS:
            self._last_line = time.monotonic()
            self._rich.print(Text(self._summary()))

    def close(self) -> None:
        """Trials have ended, or were interrupted."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._planned and not self._quiet:
            self._rich.print(Text(self._summary()))

    def __getstate__(self) -> NoReturn:
        raise TypeError("the console belongs to the process that started the study")

    def _failure(self, record: TrialRecord) -> None:
        assert record.error is not None
        spec = record.spec
        lines = record.error.message.strip().splitlines()
        self._rich.print(
            Text(
                f"failed: {spec.task.name}/{spec.label}/{spec.repeat} trial {spec.index} "
                f"({record.error.kind}): {record.error.type}: {lines[0] if lines else ''}",
                style="red",
            )
        )

    def _summary(self) -> str:
        done, planned = sum(self._done.values()), sum(self._planned.values())
        parts = [f"{done} of {planned} trials done"]
        if self._from_store:
            parts.append(f"{self._from_store} of them from the store")
        if running := sum(self._running.values()):
            parts.append(f"{running} running")
        if failed := sum(self._failed.values()):
            parts.append(f"{failed} failed")
        elapsed = time.monotonic() - self._started
        parts.append(f"{_duration(elapsed)} so far")
        if (fresh := done - self._from_store) and done < planned:
            parts.append(f"about {_duration(elapsed / fresh * (planned - done))} left")
        return ", ".join(parts)

    def _view(self) -> RenderableType:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column, justify in (("task", "left"), ("done", "right"), ("running", "right"), ("failed", "right")):
            table.add_column(column, justify=justify)  # type: ignore[arg-type]
        table.add_column("best on select")
        for task, planned in self._planned.items():
            best = self._best.get(task)
            cells: list[Any] = [
                task,
                f"{self._done[task]}/{planned}",
                str(self._running[task] or ""),
                str(self._failed[task] or ""),
            ]
            table.add_row(*cells, f"{best[0]:.3f}  {best[1]}" if best else "")
        return Group(table, Text(self._summary(), style="dim"))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
