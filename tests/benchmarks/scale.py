"""The harness around trials that only pretend: `python -m tests.benchmarks.scale [--trials 1000 10000] [--store 100000]`.

Training is replaced by trials that end after a drawn, simulated time on 64 simulated slots: searches, router, store, event log
and Optuna's copy are the real ones, Ray is not there (64 worker processes do not fit on a small machine). What is measured is
the harness's own time, on one core. `--store`: a store of so many synthesised records, for status and report alone.
Kept in results/benchmarks/measured.json, where rows of other sizes stay (`--store 100000` adds its row), and the README there.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import yaml

from harness.engine.router import Router
from harness.plan.plan import Plan, make_plan
from harness.plan.prepared import PreparedTask
from harness.records import CostRecord, EpochRecord, Score, TermWeights, TrialRecord, TrialSpec
from harness.store.store import Store
from harness.study.schema import Study
from harness.watching import watching
from harness.watching.console import Console
from harness.watching.event_log import EventLog
from tests.benchmarks.outcome import keep, kept, scale_table, summary
from tests.conftest import PROJECT

SLOTS = 64
TRIALS_PER_CELL = 15
TASKS = ["cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "rte"]
COMMAND = "python -m tests.benchmarks.scale"
ROWS = 100


def scale_study(cells: int, trials: int = TRIALS_PER_CELL) -> Study:
    """`cells` cells over seven tasks and up to five repeats, of as many labels as that needs."""
    repeats = 5 if cells >= 350 else 1
    labels = max(1, cells // (len(TASKS) * repeats))
    model = {"config": {"model_type": "bert"}}
    return Study.model_validate(
        {
            "name": "scale",
            "tasks": TASKS,
            "strategies": [{"name": "fixed_alpha", "label": f"strategy_{i}"} for i in range(labels)],
            "models": {"student": model, "teachers": [model]},
            "data": {"source": "generated"},
            "search": {
                "trials": trials,
                "repeats": repeats,
                "space": {"learning_rate": {"type": "float", "low": 1e-5, "high": 1e-3, "log": True}},
            },
        }
    )


def prepared_tasks(plan: Plan) -> dict[str, PreparedTask]:
    return {
        task.name: PreparedTask(
            data_digest=f"data {task.name}",
            digests={"fit": "0"},
            rows={"fit": 1},
            origin="nowhere",
            majority={"validation": Score(rows=ROWS, metrics=dict.fromkeys(task.metrics, 0.5))},
            student_digest="student",
            teacher_digests={"teacher": "teacher"},
        )
        for task in plan.tasks
    }


def stand_in_record(spec: TrialSpec, draw: random.Random) -> TrialRecord:
    score = {name: 0.6 + 0.3 * draw.random() for name in spec.task.metrics}
    epochs = [
        EpochRecord(
            epoch=epoch,
            train_loss=1 / (1 + epoch),
            terms={"ce": 0.5, "kd": 0.7},
            select=score,
            weights={term: TermWeights(mean=0.5, quantiles=[0.5] * 7) for term in ("ce", "kd")},
            seconds=1.0,
        )
        for epoch in range(3)
    ]
    report = {"validation": Score(rows=ROWS, metrics=score)}
    return TrialRecord(
        key=spec.key,
        status="ok",
        spec=spec,
        objective=score[spec.task.headline_metric],
        best_epoch=2,
        report=report,
        majority=report,
        teacher_report=[report],
        epochs=epochs,
        cost=CostRecord(train_seconds=3.0, total_seconds=4.0, student_forward=300, student_backward=300),
    )


def stand_in_predictions(spec: TrialSpec, draw: np.random.Generator) -> pd.DataFrame:
    classes = len(spec.task.labels)
    probabilities = draw.dirichlet(np.ones(classes), ROWS)
    columns = {f"p{k}": probabilities[:, k] for k in range(classes)}
    label = np.arange(ROWS) % classes
    known = {"split": "validation", "id": np.arange(ROWS), "label": label, "predicted": probabilities.argmax(1)}
    return pd.DataFrame({**known, **columns})


def simulate(folder: Path, cells: int) -> dict[str, Any]:
    """Run all trials of a study on simulated slots; what the harness itself takes."""
    plan = make_plan(scale_study(cells), Path.cwd())
    prepared, store = prepared_tasks(plan), Store(folder)
    draw, numbers = random.Random(0), np.random.default_rng(0)
    process = psutil.Process()
    before, started, cpu = process.memory_info().rss, time.perf_counter(), time.process_time()
    pretending = 0.0
    EventLog(store).happened("started", trials=plan.trials, cells=len(plan.cells))
    console = Console(quiet=True)
    console.start(plan)
    with store.writing(), watching(plan, store, print) as watcher:
        store.write_manifest(_manifest(plan, prepared))
        watcher.happened("slots", slots=SLOTS, cells=len(plan.cells))
        router = Router(plan, plan.cells, prepared, store, console, watcher=watcher)
        running: list[tuple[float, int, TrialSpec]] = []
        clock, count = 0.0, 0
        while True:
            while len(running) < SLOTS and (spec := router.next()) is not None:
                count += 1
                heapq.heappush(running, (clock + draw.uniform(1, 10), count, spec))
            if not running:
                break
            clock, _, spec = heapq.heappop(running)
            pretended = time.perf_counter()
            record, predictions = stand_in_record(spec, draw), stand_in_predictions(spec, numbers)
            pretending += time.perf_counter() - pretended
            for epoch in record.epochs:
                router.epoch(spec.key, epoch)
            router.finish(record, predictions)
        assert router.finished
    EventLog(store).happened("ended", done=count, failed=0, from_store=0)
    seconds = time.perf_counter() - started - pretending
    return {
        "cells": len(plan.cells),
        "trials": count,
        "slots": SLOTS,
        "own_ms_per_trial": 1000 * seconds / count,
        "own_cpu_ms_per_trial": 1000 * (time.process_time() - cpu - pretending) / count,
        "memory_growth_mib": (process.memory_info().rss - before) / 2**20,
    }


def start_again(folder: Path, cells: int) -> float:
    """Seconds of a run before its first trial, where the store holds all of them: read, told to the searches, and copied."""
    plan = make_plan(scale_study(cells), Path.cwd())
    prepared, store, console = prepared_tasks(plan), Store(folder), Console(quiet=True)
    started = time.perf_counter()
    store.records()  # damage and other code are looked for
    console.start(plan)
    with store.writing(), watching(plan, store, print) as watcher:
        assert Router(plan, plan.cells, prepared, store, console, watcher=watcher).finished
    return time.perf_counter() - started


def synthesise(folder: Path, trials: int) -> None:
    """A finished store of `trials` records, without running anything."""
    plan = make_plan(scale_study(min(700, trials), -(-trials // 700)), Path.cwd())
    prepared, store = prepared_tasks(plan), Store(folder)
    from harness.plan.plan import trial_spec

    draw, numbers, fsync = random.Random(0), np.random.default_rng(0), os.fsync
    os.fsync = lambda _: None  # nobody pulls the plug
    try:
        for cell in plan.cells:
            for index in range(cell.trials):
                values = {"training.learning_rate": 10 ** draw.uniform(-5, -3)} if index else {}
                spec = trial_spec(plan, cell, index, values, prepared)
                store.write(stand_in_record(spec, draw), stand_in_predictions(spec, numbers))
        store.write_manifest(_manifest(plan, prepared))
    finally:
        os.fsync = fsync


def read_times(folder: Path) -> dict[str, float]:
    """Seconds of what reads a store; `status` and `report` as commands, with Python's start."""
    started = time.perf_counter()
    records = Store(folder).records()
    found: dict[str, float] = {"records": len(records), "store_read_s": time.perf_counter() - started}
    del records
    for verb in ("status", "report"):
        found[f"{verb}_s"] = _command(verb, str(folder))
    return found


def plan_time(cells: int, trials: int) -> float:
    study = scale_study(cells, trials)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.yaml"
        file.write_text(yaml.safe_dump(json.loads(study.model_dump_json())))
        return _command("plan", str(file))


def _command(*arguments: str) -> float:
    """Seconds of a verb."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "harness", *arguments], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def _manifest(plan: Plan, prepared: dict[str, PreparedTask]) -> dict[str, Any]:
    from harness.commands.manifest import make_manifest, now

    return make_manifest(plan, prepared, Path("scale.yaml"), ["python", "-m", "tests.benchmarks.scale"], now())


def measure(sizes: Sequence[int], synthesised: Sequence[int], scratch: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"cores": os.cpu_count(), "simulated": [], "read": []}
    simulate(scratch / "warm-up", 7)  # imports
    for trials in sizes:
        folder = scratch / f"run-{trials}"
        cells = max(7, round(trials / TRIALS_PER_CELL / 7) * 7)
        cells = 700 if trials == 10_000 else cells
        found["simulated"].append(simulate(folder, cells) | {"start_again_s": start_again(folder, cells)})
        found["read"].append(read_times(folder) | {"plan_s": plan_time(cells, TRIALS_PER_CELL)})
        shutil.rmtree(folder)
    for trials in synthesised:
        folder = scratch / f"store-{trials}"
        synthesise(folder, trials)
        found["read"].append(read_times(folder) | {"plan_s": plan_time(700, -(-trials // 700))})
        shutil.rmtree(folder)
    return found


def merged(before: dict[str, Any], now: dict[str, Any], command: str) -> dict[str, Any]:
    """Rows of both, by size; where both have one, that of now. `growth` is of the largest and the smallest simulated study."""
    commands = [*(one for one in before.get("commands", []) if one != command), command]
    found: dict[str, Any] = {"commands": commands, "cores": now["cores"]}
    for kind, size in (("simulated", "trials"), ("read", "records")):
        rows = {row[size]: row for row in (*before.get(kind, []), *now[kind])}
        found[kind] = [rows[key] for key in sorted(rows)]
    # processor time: other work on the machine does not count
    own = [one["own_cpu_ms_per_trial"] for one in found["simulated"]]
    found["growth"] = own[-1] / own[0] if own else None
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="*", help="default: 1000 10000, or none with --store")
    parser.add_argument("--store", type=int, nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=PROJECT / "results" / "benchmarks")
    given = parser.parse_args()
    trials = given.trials if given.trials is not None else [] if given.store else [1000, 10_000]
    with tempfile.TemporaryDirectory(dir=PROJECT / "results") as scratch:
        measured = measure(trials, given.store, Path(scratch))
    result = merged(kept(given.out).get("scale", {}), measured, " ".join([COMMAND, *sys.argv[1:]]))
    keep(given.out, "scale", result)
    summary(given.out)
    sys.stdout.write(scale_table(result))
