"""Several students on one core at once: as processes, and stacked in one process."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from harness.data.encode import Encoded
from harness.data.labelled_rows import LabelledRows
from harness.models.build import build_model
from harness.study.schema import ModelSpec
from harness.training.loop import Training
from tests.benchmarks.measure import in_turns, median_ratio
from tests.benchmarks.outcome import Options, Outcome, Target
from tests.benchmarks.setting import Rows, make_training, step_of, steps_together

COUNTS = (1, 2, 4, 8)
STUDENTS = {
    "tiny": {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64},
    "small": {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 256},
}
"""tiny: the student of studies/quickstart.yaml and planted_truth.yaml."""
STEPS = 12
BATCH, LENGTH, VOCABULARY = 32, 16, 500


def run(options: Options) -> Outcome:
    torch.set_num_threads(1)
    counts, rounds, seconds = ((1, 2), 1, 0.1) if options.small else (COUNTS, 15, 1.5)
    rows, targets = [], []
    for name in STUDENTS:
        for count in counts:
            taken = in_turns({"in turn": in_turn(name, count), "stacked": stacked(name, count)}, rounds)
            gain = median_ratio(taken["in turn"], taken["stacked"])
            rows.append(
                {
                    "students": name,
                    "K": count,
                    "way": "stacked in one process",
                    "students' steps a second, in turn": round(count * STEPS / statistics.median(taken["in turn"])),
                    "gain": round(gain, 2),
                    "greatest difference": f"{difference(name, count):.0e}",
                }
            )
            if name == "tiny" and count > 1:
                targets.append(Target(f"stacked, tiny students, K = {count}: gain of the harness's step", gain, at_least=1.3))
    with Processes(max(counts)) as processes:
        for name in STUDENTS:
            together = [
                {count: processes.steps_a_second(name, count, seconds) for count in counts} for _ in range(max(1, rounds // 2))
            ]
            for count in counts:
                gain = statistics.median(one[count] / one[1] for one in together)
                rows.append({"students": name, "K": count, "way": "processes on one core"})
                rows[-1]["gain"] = round(gain, 2)
    notes = [
        "BERT, tiny: one layer of 32, as in quickstart, small: two of 64; batch 32 x 16 tokens, dropout 0.1, plain KD, one "
        "core. Gain: students' steps a second against one student after another, both the harness's whole step.",
        "Stacked: as `resources.stacked` has it. Terms, weights, their log, batches, clipping and optimiser are each student's "
        "own; forward and backward pass are one. Greatest difference of a parameter to the student trained alone, in float64.",
        "Data, scores and predictions come on top, and students of other seeds have batches of other widths.",
    ]
    return Outcome("several students on one core", rows, notes, targets)


def made_up_rows(count: int) -> LabelledRows:
    generator = np.random.default_rng(0)
    encoded = Encoded(
        ids=np.arange(count),
        labels=generator.integers(0, 2, count),
        flipped=None,
        lengths=np.full(count, LENGTH, dtype=np.int32),
        tokens=generator.integers(4, VOCABULARY, count * LENGTH).astype(np.int32),
        segments=None,
        starts=np.arange(count) * LENGTH,
        pad_token=0,
    )
    return LabelledRows(encoded, generator.normal(size=(1, count, 2)).astype(np.float32))


def trainings(size: str, count: int, double: bool = False) -> list[Training]:
    """Students of other weights, batches and masks."""
    config = {"model_type": "bert", "num_attention_heads": 2, **STUDENTS[size]}
    rows = made_up_rows(BATCH * STEPS)
    rows_of_all = Rows(None, rows, rows, rows.encoded, rows.encoded, VOCABULARY)
    found = []
    for seed in range(count):
        model = build_model(ModelSpec(config=config, dropout=0.1), 2, seed, VOCABULARY)
        model = model.double() if double else model
        found.append(make_training(rows_of_all, "fixed_alpha", model=model, seed=seed, epochs=1000))
    return found


def steps_alone(training: Training, steps: int = STEPS) -> None:
    step = step_of(training)
    for index in range(steps):
        step(index)


def in_turn(size: str, count: int) -> Callable[[int], object]:
    made = trainings(size, count)
    return lambda _: [steps_alone(training) for training in made]


def stacked(size: str, count: int) -> Callable[[int], object]:
    made = trainings(size, count)
    return lambda _: steps_together(made, STEPS)


def difference(size: str, count: int) -> float:
    """Of any parameter, in float64: Adam turns a gradient that is zero but for rounding into steps of full size, so biases of
    keys, which have no other, are left out.
    """
    together, alone = trainings(size, count, double=True), trainings(size, count, double=True)
    torch.manual_seed(0)
    steps_together(together, STEPS)
    for training in alone:
        torch.manual_seed(0)
        steps_alone(training)
    return max(
        float((parameter - other).detach().abs().max())
        for one, same in zip(together, alone, strict=True)
        for (name, parameter), other in zip(one.model.named_parameters(), same.model.parameters(), strict=True)
        if not name.endswith("key.bias")
    )


class Processes:
    """Warm processes that share one core."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for _ in range(count):
            here, there = context.Pipe()
            self.pipes.append(here)
            self.processes.append(context.Process(target=_on_one_core, args=(there,), daemon=True))
            self.processes[-1].start()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.send(None)
            process.join()

    def steps_a_second(self, size: str, count: int, seconds: float) -> float:
        """Of so many students together, each in a process, trained for so long."""
        chosen = self.pipes[:count]
        for pipe in chosen:
            pipe.send((size, seconds))
        for pipe in chosen:
            pipe.recv()  # ready
        for pipe in chosen:
            pipe.send(None)
        return float(sum(pipe.recv() for pipe in chosen))


def _on_one_core(pipe: Any) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    while (given := pipe.recv()) is not None:
        size, seconds = given
        (training,) = trainings(size, 1)
        steps_alone(training, 2)
        pipe.send("ready")
        pipe.recv()
        started, steps = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            steps_alone(training)
            steps += STEPS
        pipe.send(steps / (time.perf_counter() - started))
