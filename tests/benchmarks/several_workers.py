"""What a trial of two workers takes beyond its training: of the first one two new processes and Ray Train's helpers, which stay
for those after it.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from harness.plan.plan import make_plan
from harness.records import TrialRecord
from harness.store.store import Store
from harness.study.schema import Study
from harness.teachers.prepare import prepare
from harness.watching.console import Console
from tests.benchmarks.outcome import Options, Outcome, Target
from tests.benchmarks.study import sixty_trials

TRIALS = 5
MINUTES = (1, 3, 10)
BOUND = 10.0
"""% of a trial of three minutes. Where ranks were new for every trial, it would be more on two cores: the first trial's."""


class Timed(Console):
    """Notes how long each trial took, from when it is dealt out to when it is stored."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.beyond: list[float] = []
        """Seconds of each trial beyond those within it, in their order."""
        self._started = 0.0

    def trial_started(self, cell_id: str) -> None:
        self._started = time.perf_counter()
        super().trial_started(cell_id)

    def trial_finished(self, record: TrialRecord, from_store: bool) -> None:
        assert record.status == "ok", record.error
        self.beyond.append(time.perf_counter() - self._started - record.cost.total_seconds)
        super().trial_finished(record, from_store)


def run(options: Options) -> Outcome:
    from harness.engine.ray_tune import run_plan

    short = sixty_trials(1, 120).model_dump()
    short["strategies"] = short["strategies"][: 2 if options.small else TRIALS]
    short["resources"] |= {"engine": "ray", "workers": 2, "concurrent_trials": 1, "retries": 0}
    plan = make_plan(Study.model_validate(short), Path.cwd())
    prepared, console = prepare(plan, options.cache, Console(quiet=True)), Timed()
    run_plan(plan, prepared, Store(options.cache / "several"), console, options.cache)
    first, *later = console.beyond
    beyond = statistics.median(later)
    lost = {minutes: 100 * beyond / (60 * minutes) for minutes in MINUTES}
    rows = [{"minutes of training": minutes, "% of them beyond": round(share, 1)} for minutes, share in lost.items()]
    notes = [
        f"Seconds beyond what passes within a trial of two workers: {beyond:.1f}, the median of {len(later)} "
        f"({min(later):.1f} to {max(later):.1f}); of a cluster's first trial {first:.1f}.",
        "Within a trial: data, models, training, scores. One trial at a time, each of a few steps.",
    ]
    return Outcome("trials of two workers", rows, notes, [Target("% beyond three minutes of training", lost[3], at_most=BOUND)])
