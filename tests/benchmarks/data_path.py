"""What making a batch costs: gathering and padding memory-mapped tokens, labels and teacher logits."""

from __future__ import annotations

import statistics

import torch

from tests.benchmarks.measure import in_turns, median_ratio
from tests.benchmarks.outcome import Options, Outcome
from tests.benchmarks.setting import glue_rows, make_training, step_of


def run(options: Options) -> Outcome:
    torch.set_num_threads(1)
    found = []
    for task in ("mrpc", "sst2", "cola"):
        rows = glue_rows(task, 1000, options.cache)
        training = make_training(rows, "fixed_alpha")
        batches = training.batches.epoch(0)

        def make(index: int, rows=rows, batches=batches) -> object:
            return rows.fit.batch(batches[index % len(batches)], 32, torch.device("cpu"))

        work = {"step": step_of(training), "batch": make, "epoch's order": lambda index, t=training: t.batches.epoch(index)}
        seconds = in_turns(work, rounds=8)
        order = statistics.median(seconds["epoch's order"]) / len(batches)
        step = statistics.median(seconds["step"])
        share = median_ratio(seconds["batch"], seconds["step"]) + order / step
        row = {
            "task": task,
            "ms a step": round(1000 * step, 1),
            "ms a batch": round(1000 * statistics.median(seconds["batch"]), 3),
        }
        found.append(
            row | {"ms of drawing the epoch's batches, a step": round(1000 * order, 3), "% of a step": round(100 * share, 2)}
        )
    return Outcome("data path", found, ["The step without its data costs the rest. MiniLM, 3 layers, batch 32, one thread."])
