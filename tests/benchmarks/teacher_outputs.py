"""What a teacher's outputs cost in a step: read from the cache by example id, or computed."""

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


def run(options: Options) -> Outcome:
    torch.set_num_threads(1)
    found = []
    for task in TASKS:
        rows = glue_rows(task, 100 if options.small else 1000, options.cache)
        cached = _cached(options, rows.fit.encoded.ids, rows.fit.teacher_logits[0], task)
        training = make_training(rows, "fixed_alpha")
        batches = training.batches.epoch(0)
        teacher = build_model(ModelSpec(model=MINILM), 2, 0, rows.vocabulary).eval()

        def read(index: int, cached=cached, rows=rows, batches=batches) -> object:
            return torch.from_numpy(cached.logits(rows.fit.encoded.ids[batches[index % len(batches)]]))

        def compute(index: int, teacher=teacher, rows=rows, batches=batches) -> object:
            with torch.no_grad():
                return run_model(teacher, rows.fit.encoded.inputs(batches[index % len(batches)])).logits

        seconds = in_turns(
            {"training step": step_of(training), "cache": read, "teacher": compute}, rounds=1 if options.small else 10
        )
        for way in ("cache", "teacher"):
            share = 100 * median_ratio(seconds[way], seconds["training step"])
            milliseconds = round(1000 * statistics.median(seconds[way]), 3)
            found.append({"task": task, "outputs from": way, "ms a batch": milliseconds, "% of a step": round(share, 3)})
    note = "MiniLM-L6 teaches three of its layers; batch 32, one thread, float32."
    targets = [
        Target(f"cache read, % of a step, {row['task']}", row["% of a step"], at_most=1)
        for row in found
        if row["outputs from"] == "cache"
    ]
    return Outcome("teacher outputs", found, [note], targets)


def _cached(options: Options, ids: np.ndarray, logits: np.ndarray, name: str) -> TeacherOutputs:
    folder = teacher_folder(options.cache, name)
    folder.mkdir(parents=True)
    order = np.argsort(ids)
    np.save(folder / "train_ids.npy", ids[order])
    np.save(folder / "train_logits.npy", logits[order])
    (folder / "teacher.json").write_text(json.dumps({"report": {}, "parameters": 0, "hidden_size": 384}), "utf-8")
    return TeacherOutputs.load(options.cache, name)
