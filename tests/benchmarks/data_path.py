"""What data cost beside a step: making a batch of memory-mapped rows, and teacher outputs from the cache or computed."""

from __future__ import annotations

import json
import statistics

import numpy as np
import torch

from harness.data.teacher_outputs import TeacherOutputs, teacher_folder
from harness.models.build import build_model, run_model
from harness.study.schema import ModelSpec
from tests.benchmarks.measure import in_turns, median_ratio
from tests.benchmarks.outcome import Options, Outcome, Target
from tests.benchmarks.setting import MINILM, TASKS, glue_rows, make_training, step_of

BATCH, CACHE, TEACHER = "a batch, gathered and padded", "teacher outputs from the cache", "teacher outputs, computed"
ORDER = "the epoch's batches, drawn: a step's part"
AT_MOST = {BATCH: 3, ORDER: 3, CACHE: 1}
"""Percent of a step."""


def run(options: Options) -> Outcome:
    torch.set_num_threads(1)
    found = []
    for task in TASKS:
        rows = glue_rows(task, 100 if options.small else 1000, options.cache)
        cached = _cached(options, rows.fit.encoded.ids, rows.fit.teacher_logits[0], task)
        training = make_training(rows, "fixed_alpha")
        batches = training.batches.epoch(0)
        teacher = build_model(ModelSpec(model=MINILM), 2, 0, rows.vocabulary).eval()

        def make(index: int, rows=rows, batches=batches) -> object:
            return rows.fit.batch(batches[index % len(batches)], 32, torch.device("cpu"))

        def read(index: int, cached=cached, rows=rows, batches=batches) -> object:
            return torch.from_numpy(cached.logits(rows.fit.encoded.ids[batches[index % len(batches)]]))

        def compute(index: int, teacher=teacher, rows=rows, batches=batches) -> object:
            with torch.no_grad():
                return run_model(teacher, rows.fit.encoded.inputs(batches[index % len(batches)])).logits

        work = {"step": step_of(training), BATCH: make, CACHE: read, TEACHER: compute}
        seconds = in_turns({**work, ORDER: lambda index, t=training: t.batches.epoch(index)}, rounds=1 if options.small else 12)
        seconds[ORDER] = [taken / len(batches) for taken in seconds[ORDER]]
        step = seconds.pop("step")
        for what, taken in seconds.items():
            milliseconds, share = 1000 * statistics.median(taken), 100 * median_ratio(taken, step)
            found.append({"task": task, "what": what, "ms": round(milliseconds, 3), "% of a step": round(share, 3)})
    targets = [
        Target(f"{row['what']}, % of a step, {row['task']}", row["% of a step"], at_most=AT_MOST[row["what"]])
        for row in found
        if row["what"] in AT_MOST
    ]
    note = "MiniLM-L6 teaches three of its layers; batch 32, one thread, float32."
    return Outcome("data beside a step", found, [note], targets)


def _cached(options: Options, ids: np.ndarray, logits: np.ndarray, name: str) -> TeacherOutputs:
    folder = teacher_folder(options.cache, name)
    folder.mkdir(parents=True)
    order = np.argsort(ids)
    np.save(folder / "train_ids.npy", ids[order])
    np.save(folder / "train_logits.npy", logits[order])
    (folder / "teacher.json").write_text(json.dumps({"report": {}, "parameters": 0, "hidden_size": 384}), "utf-8")
    return TeacherOutputs.load(options.cache, name)
