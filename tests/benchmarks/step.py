"""A plain KD step on a CPU, and the same without what makes it cheaper: seconds of the process, one thread, taken in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from harness.models.build import build_model
from harness.models.evaluate import WIDTH_STEPS
from harness.training.device import processor_has_bf16
from tests.benchmarks.measure import in_turns, median_ratio
from tests.benchmarks.outcome import Options, Outcome, Target
from tests.benchmarks.setting import STUDENT, Rows, glue_rows, make_training, step_of
from tests.harness.small_models import as_transformers_has_it

ROWS = 2500
OLD, MASKS = "transformers' layers, PyTorch's dropout", "transformers' layers, dropout of 16 bits"
LEAN = "lean layers, dropout of 16 bits"
AT_LEAST = {("cola", "bf16"): 1.4, ("mrpc", "bf16"): 1.5}
"""How many times faster than the old step is wanted."""


def run(options: Options) -> Outcome:
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    targets = []
    with_bf16 = processor_has_bf16() is not False
    tasks = ("cola",) if options.small else ("cola", "mrpc")
    for task in tasks:
        rows = glue_rows(task, 300 if options.small else ROWS, options.cache)
        for precision in ("fp32", "bf16") if with_bf16 else ("fp32",):
            rounds = 2 if options.small else {"cola": 60, "mrpc": 24}[task]
            steps = variants(rows, precision)
            # warm: bf16's kernels are compiled for each shape
            seconds = in_turns(steps, rounds, warm_up=rounds, clock=time.process_time)
            for name, times in seconds.items():
                found.append(
                    {
                        "task": task,
                        "precision": precision,
                        "step": name,
                        "CPU ms": round(1e3 * statistics.median(times), 1),
                        "times faster": round(median_ratio(seconds[OLD], times), 3),
                        "times faster, all rounds": round(sum(seconds[OLD]) / sum(times), 3),
                    }
                )
            if (task, precision) in AT_LEAST:
                best = max(sum(seconds[OLD]) / sum(times) for times in seconds.values())
                targets.append(Target(f"{task}, {precision}: step", best, at_least=AT_LEAST[task, precision]))
    notes = [
        "Student: MiniLM, 3 layers, its own dropout 0.1; batch 32; CPU seconds of the process, one thread. `times faster`: "
        "median over rounds of the ratio within a round; and of all rounds together, as batches differ in length.",
    ]
    if not with_bf16:
        notes.append(
            "bf16 is left out: this processor has no instructions for it, and a step takes many times as long as in fp32."
        )
    return Outcome("a plain KD step and what makes it cheaper", found, notes, targets)


def variants(rows: Rows, precision: str) -> dict[str, Callable[[int], object]]:
    steps = {name: one(rows, precision, name) for name in (OLD, MASKS, LEAN)}
    if precision == "bf16":
        steps |= {f"{LEAN}, widths in steps of {width}": one(rows, precision, LEAN, width) for width in (1, 2, 4)}
    return steps


def one(rows: Rows, precision: str, name: str, width: int | None = None) -> Callable[[int], object]:
    model = as_transformers_has_it(build_model(STUDENT, 2, 1, rows.vocabulary), dropout=name == OLD, layers=name != LEAN)
    step = step_of(make_training(rows, "fixed_alpha", precision=precision, model=model))
    usual = WIDTH_STEPS[precision]

    def with_width(index: int) -> None:
        WIDTH_STEPS[precision] = width or usual
        try:
            step(index)
        finally:
            WIDTH_STEPS[precision] = usual

    return with_width
