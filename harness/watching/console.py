"""What a person sees while a study runs: one live view in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, NoReturn

from rich.console import Console as RichConsole
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness.errors import place_in, printable
from harness.plan.plan import Plan
from harness.records import TrialRecord
from harness.watching.progress import Progress
from harness.watching.status_text import duration, teacher_text

PLAIN_EVERY_SECONDS = 15.0
"""Where the output is no terminal, progress is a line at most so often."""


class Console:
    """Progress of one study. Not to be sent to other processes."""

    def __init__(self, quiet: bool = False, rich: RichConsole | None = None) -> None:
        """`quiet`: failures only."""
        self.progress = Progress()
        self._rich = rich or RichConsole(highlight=False, soft_wrap=True)
        self._quiet = quiet
        self._live: Live | None = None
        self._last_line = 0.0
        self._teachers: dict[str, str] = {}
        """Name -> line of those that train."""
        self._teacher_lines: dict[str, float] = {}
        """Name -> when it had its last line that stays."""

    def stage(self, text: str) -> None:
        """A new part of the work begins."""
        self.note(text)

    def note(self, text: str) -> None:
        """One line that stays."""
        if not self._quiet:
            self._rich.print(Text(printable(text)))

    def teacher_trains(self, name: str, progress: Mapping[str, Any]) -> bool:
        """How far a teacher is (`status_text.teacher_text`). Returns whether that is worth a line of a log: every 15 s."""
        now = time.monotonic()
        worth = now - self._teacher_lines.get(name, -math.inf) > PLAIN_EVERY_SECONDS
        if worth:
            self._teacher_lines[name] = now
        self._teachers[name] = f"{name}: {teacher_text(progress)}"
        if self._quiet:
            return worth
        if self._rich.is_terminal and self._live is None:
            self._live = Live(get_renderable=self._teacher_view, console=self._rich, refresh_per_second=2, transient=True)
            self._live.start()
        elif worth and self._live is None:
            self.note(self._teachers[name])
        return worth

    def teacher_ended(self, name: str) -> None:
        """It is ready, or has failed."""
        self._teachers.pop(name, None)
        if not self._teachers:
            self._end_live()

    def start(self, plan: Plan) -> None:
        """Trials are about to run."""
        self.progress = Progress.of(plan)
        self._last_line = time.monotonic()
        self.note(f"running {plan.trials} trials in {len(plan.cells)} cells")
        if self._rich.is_terminal and not self._quiet:
            self._live = Live(get_renderable=self._view, console=self._rich, refresh_per_second=2, transient=True)
            self._live.start()

    def trial_started(self, cell_id: str) -> None:
        self.progress.start(cell_id)

    def trial_finished(self, record: TrialRecord, from_store: bool) -> None:
        """A trial ended, or the store already had it."""
        self.progress.finish(record, from_store)
        if record.error is not None:
            self._failure(record)
        if self._live is None and not self._quiet and time.monotonic() - self._last_line > PLAIN_EVERY_SECONDS:
            self._last_line = time.monotonic()
            self._rich.print(Text(self._summary()))

    def close(self) -> None:
        """Trials have ended, or were interrupted. Closing twice does nothing."""
        self._end_live()
        if self.progress.planned:
            self.note(self._summary())

    def _end_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __getstate__(self) -> NoReturn:
        raise TypeError("the console belongs to the process that started the study")

    def _failure(self, record: TrialRecord) -> None:
        assert record.error is not None
        spec = record.spec
        first = (record.error.message.strip().splitlines() or [""])[0]
        where = f"{spec.task.name}/{spec.label}/{spec.repeat} trial {spec.index}"
        said = f"failed: {where} ({record.error.kind}): {record.error.type}: {first}"
        said += place_in(record.error.traceback, spec.plugins)
        self._rich.print(Text(printable(said), style="red"))

    def _summary(self) -> str:
        progress = self.progress  # how many run is not said: where a trial has just ended, its place is about to be taken
        done, planned = progress.done.total(), progress.planned.total()
        parts = [f"{done} of {planned} trials and {progress.cells_done} of {progress.cells} cells done"]
        if progress.from_store:
            parts.append(f"{progress.from_store} trials from the store")
        if failed := progress.failed.total():
            parts.append(f"{failed} failed")
        parts.append(f"{duration(time.monotonic() - progress.started)} so far")
        if (left := progress.seconds_left()) is not None:
            parts.append(f"about {duration(left)} left")
        return ", ".join(parts)

    def _teacher_view(self) -> RenderableType:
        return Text("\n".join(self._teachers.values()), style="dim")

    def _view(self) -> RenderableType:
        progress = self.progress
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("task")
        for name in ("done", "running", "failed"):
            table.add_column(name, justify="right")
        table.add_column("best on select")
        for task, planned in progress.planned.items():
            score, label = progress.best.get(task, (None, ""))
            table.add_row(
                task,
                f"{progress.done[task]}/{planned}",
                str(progress.running[task] or ""),
                str(progress.failed[task] or ""),
                Text("" if score is None else f"{score:.3f}  {label}"),  # Text: a label is no markup
            )
        return Group(table, Text(self._summary(), style="dim"))
