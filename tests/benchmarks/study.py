"""A study of 60 trials under Ray, on all slots, against the same trainings back to back in one warm process a slot."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from harness.plan.plan import Plan, make_plan, trial_spec
from harness.records import TrialRecord, TrialSpec
from harness.store.store import Store
from harness.study.schema import Study
from harness.teachers.prepare import prepare
from harness.training.trial import train_trial
from harness.watching.console import Console
from tests.benchmarks.outcome import Options, Outcome, Target

SLOTS = 2
STRATEGIES = ["ce_only", "kd_only", "fixed_alpha", "annealed_alpha", "random_weights", "wsl"]
REPEATS = 10
STUDENT = {"model_type": "bert", "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}


class Watching(Console):
    """Notes when the first trial starts and the last one ends."""

    first = last = 0.0

    def trial_started(self, cell_id: str) -> None:
        self.first = self.first or time.perf_counter()
        super().trial_started(cell_id)

    def trial_finished(self, record: TrialRecord, from_store: bool) -> None:
        self.last = time.perf_counter()
        super().trial_finished(record, from_store)


def sixty_trials(repeats: int = REPEATS, train_rows: int = 4000) -> Study:
    """Generated SST-2, students of a few hundred thousand parameters, some seconds a trial."""
    content: dict[str, Any] = {
        "name": "sixty",
        "tasks": ["sst2"],
        "strategies": STRATEGIES,
        "data": {"source": "generated", "generated": {"train_rows": train_rows, "report_rows": 200}, "max_length": 32},
        "models": {
            "student": {"config": STUDENT},
            "teachers": [{"config": STUDENT, "training": {"epochs": 1, "learning_rate": 1e-3}}],
        },
        "training": {"epochs": 3, "batch_size": 32, "learning_rate": 1e-3},
        "search": {"trials": 1, "repeats": repeats},
    }
    return Study.model_validate(content)


def run(options: Options) -> Outcome:
    from harness.engine.ray_tune import run_plan

    torch.set_num_threads(1)
    plan = make_plan(sixty_trials(1, 120) if options.small else sixty_trials(), Path.cwd())
    prepared = prepare(plan, options.cache, Console(quiet=True))
    specs = [trial_spec(plan, cell, 0, {}, prepared) for cell in plan.cells]
    before = back_to_back(specs, options.cache)
    store, console = Store(options.cache / "sixty"), Watching(quiet=True)
    started = time.perf_counter()
    run_plan(plan, prepared, store, console, options.cache)
    ended = time.perf_counter()
    records = store.records()
    assert len(records) == len(specs), "trials are missing"
    assert all(record.status == "ok" for record in records)
    after = back_to_back(specs, options.cache)
    alone = statistics.mean([before, after])
    trials = console.last - console.first
    rows = [
        {"way": "back to back, before", "seconds": round(before, 1), "trials an hour": round(3600 * len(specs) / before)},
        {
            "way": "Ray, first trial's start to last one's end",
            "seconds": round(trials, 1),
            "trials an hour": round(3600 * len(specs) / trials),
            "of back to back": round(alone / trials, 3),
        },
        {"way": "back to back, after", "seconds": round(after, 1), "trials an hour": round(3600 * len(specs) / after)},
        {
            "way": "Ray, with its start and end",
            "seconds": round(ended - started, 1),
            "of back to back": round(alone / (ended - started), 3),
        },
    ]
    overhead = SLOTS * (trials - alone) / len(specs)
    training = sum(record.cost.train_seconds for record in records)
    inside = sum(record.cost.total_seconds for record in records)
    slot_seconds = SLOTS * (ended - started)
    rows += [
        {
            "way": "Ray, training alone: sum over trials",
            "seconds": round(training, 1),
            "slot use": round(training / slot_seconds, 3),
        },
        {"way": "Ray, within trials: sum", "seconds": round(inside, 1), "slot use": round(inside / slot_seconds, 3)},
    ]
    notes = [
        f"{len(specs)} trials of {SLOTS * alone / len(specs):.2f} s each on {SLOTS} slots of one core.",
        f"Overhead a trial, against back to back: {overhead:.2f} s.",
        "Back to back: processes that have imported everything and run one trial before, without Ray and without a store; the "
        "mean of a run before and one after.",
        "Slot use: over slots x wall time of the whole run, Ray's start and end included. Training alone: optimiser steps; "
        "within trials: with data, model, selection scores and predictions, too, which back to back has likewise.",
    ]
    return Outcome(
        "60 trials on all slots",
        rows,
        notes,
        [
            Target("throughput of back to back, trials", alone / trials, at_least=0.9),
            Target("throughput of back to back, with Ray's start and end", alone / (ended - started), at_least=0.9),
        ],
    )


def back_to_back(specs: list[TrialSpec], cache: Path) -> float:
    """Seconds for all of them, dealt out to one warm process a slot."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(SLOTS + 1)
    parts = [[spec.model_dump_json() for spec in specs[slot::SLOTS]] for slot in range(SLOTS)]
    workers = [context.Process(target=_train_all, args=(part, str(cache), barrier)) for part in parts]
    for worker in workers:
        worker.start()
    barrier.wait()
    started = time.perf_counter()
    for worker in workers:
        worker.join()
    assert all(worker.exitcode == 0 for worker in workers)
    return time.perf_counter() - started


def _train_all(specs: list[str], cache: str, barrier: Any) -> None:
    torch.set_num_threads(1)
    ready = [TrialSpec.model_validate_json(spec) for spec in specs]
    train_trial(ready[0], Path(cache))
    barrier.wait()
    for spec in ready:
        train_trial(spec, Path(cache))


def inline_seconds(plan: Plan, cache: Path, folder: Path) -> float:
    """Seconds that a study takes in this process, without Ray."""
    from harness.engine.inline import run_plan

    prepared = prepare(plan, cache, Console(quiet=True))
    started = time.perf_counter()
    run_plan(plan, prepared, Store(folder), Console(quiet=True), cache)
    return time.perf_counter() - started
