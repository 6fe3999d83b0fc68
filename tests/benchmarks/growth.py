"""How costs grow: a step with length and batch, a study with its trials, a report with its rows. A plot each."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.data.encode import Encoded
from harness.data.labelled_rows import LabelledRows
from harness.plan.plan import make_plan
from tests.benchmarks.measure import in_turns
from tests.benchmarks.outcome import Options, Outcome
from tests.benchmarks.setting import Rows, glue_rows, make_training, step_of
from tests.benchmarks.study import inline_seconds, sixty_trials

LENGTHS = (16, 32, 64, 128)
BATCHES = (8, 16, 32, 64)


def run(options: Options) -> Outcome:
    torch.set_num_threads(1)
    base = glue_rows("sst2", 100 if options.small else 400, options.cache)
    lengths, batches, studies, reports = (LENGTHS, BATCHES, (1, 2, 4), (1, 4, 16))
    if options.small:
        lengths, batches, studies, reports = (8, 16), (4, 8), (1,), (1,)
    found = [
        *[{"of": "step, batch 32", "over": "tokens", "x": n, **_step_seconds(base, n, 32)} for n in lengths],
        *[{"of": "step, 32 tokens", "over": "batch", "x": n, **_step_seconds(base, 32, n)} for n in batches],
        *[{"of": "study", "over": "trials", "x": n * 6, "seconds": _study_seconds(options, n)} for n in studies],
        *[{"of": "report", "over": "rows", "x": n * 60, "seconds": _report_seconds(options, n)} for n in reports],
    ]
    for of in ("step, batch 32", "step, 32 tokens", "study", "report"):
        _plot(of, [row for row in found if row["of"] == of], options.out)
    notes = [
        "Step: MiniLM, 3 layers, one thread, float32; rw_kd with its defaults. Study: tiny students one after another in one "
        "process, preparing left out. Report: planted records of 5 strategies on 3 tasks, plots and page included.",
    ]
    return Outcome("growth", found, notes)


def _step_seconds(base: Rows, length: int, batch_size: int) -> dict[str, float]:
    rows = Rows(base.roles, _of_length(length), _of_length(length), base.select, base.report, base.vocabulary)
    work = {
        name: step_of(make_training(rows, strategy, batch_size=batch_size))
        for name, strategy in (("seconds", "fixed_alpha"), ("rw_kd, seconds", "rw_kd"))
    }
    return {name: round(statistics.median(taken), 4) for name, taken in in_turns(work, rounds=3).items()}


def _of_length(length: int, rows: int = 256) -> LabelledRows:
    generator = np.random.default_rng(length)
    encoded = Encoded(
        ids=np.arange(rows),
        labels=generator.integers(0, 2, rows),
        flipped=None,
        lengths=np.full(rows, length, np.int32),
        tokens=generator.integers(1000, 20000, rows * length).astype(np.int32),
        segments=np.zeros(rows * length, np.int8),
        starts=length * np.arange(rows),
        pad_token=0,
    )
    return LabelledRows(encoded, generator.normal(size=(1, rows, 2)).astype(np.float32))


def _study_seconds(options: Options, repeats: int) -> float:
    plan = make_plan(sixty_trials(repeats, 120 if options.small else 1000), Path.cwd())
    return round(inline_seconds(plan, options.cache, options.cache / f"grown-{repeats}"), 2)


def _report_seconds(options: Options, repeats: int) -> float:
    from harness.report.build import build_report
    from tests.harness.report.stores import SEVEN, Planted, build_store

    folder = options.cache / f"report-{repeats}"
    build_store(folder, Planted(tasks=("cola", "sst2", "rte"), strategies=SEVEN[:5], repeats=repeats, trials=4))
    started = time.perf_counter()
    build_report(folder)
    return round(time.perf_counter() - started, 2)


def _plot(of: str, rows: list[dict[str, Any]], out: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    for column in [name for name in rows[0] if name.endswith("seconds")]:
        label = "rw_kd" if column.startswith("rw_kd") else "plain KD" if of.startswith("step") else of
        axes.plot([row["x"] for row in rows], [row[column] for row in rows], marker="o", label=label)
    axes.set(title=of, xlabel=rows[0]["over"], ylabel="seconds", ylim=(0, None), xlim=(0, None))
    axes.legend()
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / f"growth_{of.replace(', ', '_').replace(' ', '_')}.png", dpi=120)
