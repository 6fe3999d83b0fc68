"""What making a batch costs: gathering and padding memory-mapped tokens, labels and teacher logits."""

from __future__ import annotations

import statistics

import torch

from tests.benchmarks.measure import in_turns, median_ratio
from tests.benchmarks.outcome import Options, Outcome, Target
from tests.benchmarks.setting import TASKS, glue_rows, make_training, step_of


def run(options: Options) -> Outcome:
    torch.set_num_threads(1)
    found = []
    for task in TASKS:
        rows = glue_rows(task, 100 if options.small else 1000, options.cache)
        training = make_training(rows, "fixed_alpha")
        batches = training.batches.epoch(0)

        def make(index: int, rows=rows, batches=batches) -> object:
            return rows.fit.batch(batches[index % len(batches)], 32, torch.device("cpu"))

        work = {"step": step_of(training), "batch": make, "order": lambda index, t=training: t.batches.epoch(index)}
        seconds = in_turns(work, rounds=1 if options.small else 12)
        order = statistics.median(seconds["order"]) / len(batches)
        step = statistics.median(seconds["step"])
        share = median_ratio(seconds["batch"], seconds["step"]) + order / step
        found.append(
            {
                "task": task,
                "ms a step": round(1000 * step, 1),
                "ms a batch": round(1000 * statistics.median(seconds["batch"]), 3),
                "ms of drawing the epoch's batches, a step": round(1000 * order, 3),
                "% of a step": round(100 * share, 2),
            }
        )
    targets = [Target(f"data path, % of a step, {row['task']}", row["% of a step"], at_most=3) for row in found]
    note = "The step without its data costs the rest. MiniLM, 3 layers, batch 32, one thread, float32."
    return Outcome("data path", found, [note], targets)
