"""What a person sees while a study runs: one live view in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import NoReturn

from rich.console import Console as RichConsole
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness.errors import place_in
from harness.plan.plan import Plan
from harness.records import TrialRecord
from harness.watching.progress import Progress
from harness.watching.status_text import duration

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

    def stage(self, text: str) -> None:
        """A new part of the work begins."""
        self.note(text)

    def note(self, text: str) -> None:
        """One line that stays."""
        if not self._quiet:
            self._rich.print(Text(text))

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
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self.progress.planned:
            self.note(self._summary())

    def __getstate__(self) -> NoReturn:
        raise TypeError("the console belongs to the process that started the study")

    def _failure(self, record: TrialRecord) -> None:
        assert record.error is not None
        spec = record.spec
        first = (record.error.message.strip().splitlines() or [""])[0]
        where = f"{spec.task.name}/{spec.label}/{spec.repeat} trial {spec.index}"
        place = place_in(record.error.traceback, spec.plugins)
        self._rich.print(Text(f"failed: {where} ({record.error.kind}): {record.error.type}: {first}{place}", style="red"))

    def _summary(self) -> str:
        progress = self.progress
        done, planned = progress.done.total(), progress.planned.total()
        parts = [f"{done} of {planned} trials and {progress.cells_done} of {progress.cells} cells done"]
        if progress.from_store:
            parts.append(f"{progress.from_store} trials from the store")
        if running := progress.running.total():
            parts.append(f"{running} running")
        if failed := progress.failed.total():
            parts.append(f"{failed} failed")
        parts.append(f"{duration(time.monotonic() - progress.started)} so far")
        if (left := progress.seconds_left()) is not None:
            parts.append(f"about {duration(left)} left")
        return ", ".join(parts)

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
