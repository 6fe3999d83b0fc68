"""Several students on one core at once: as processes, and stacked in one program with `torch.func.vmap`."""

from __future__ import annotations

import copy
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F

from harness.data.encode import Encoded
from harness.data.labelled_rows import LabelledRows
from harness.models.build import build_model
from harness.study.schema import ModelSpec
from tests.benchmarks.measure import in_turns, median_ratio
from tests.benchmarks.outcome import Options, Outcome, Target
from tests.benchmarks.setting import Rows, make_training, step_of

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
        share = share_of_step(name, rounds)
        for count in counts:
            taken = in_turns({"in turn": in_turn(name, count), "stacked": stacked(name, count)}, rounds)
            gain = median_ratio(taken["in turn"], taken["stacked"])
            rows.append(
                {
                    "students": name,
                    "K": count,
                    "way": "stacked in one program",
                    "students' steps a second, in turn": round(count * STEPS / statistics.median(taken["in turn"])),
                    "gain": round(gain, 2),
                    "gain of the harness's step": round(gain_of_step(gain, share), 2),
                    "greatest difference": f"{difference(name, count):.0e}",
                }
            )
            if name == "tiny" and count > 1:
                what = f"stacked, tiny students, K = {count}: gain"
                targets.append(Target(f"{what} of forward, backward and optimiser", gain, at_least=1.3))
                targets.append(Target(f"{what} of the harness's step", gain_of_step(gain, share), at_least=1.3))
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
        "BERT, tiny: one layer of 32, as in quickstart, small: two of 64; batch 32 x 16 tokens, dropout off, AdamW, one core. "
        "Gain: students' steps a second against one student after another (as the harness builds it: fused attention).",
        "Stacked: `stack_module_state`, `vmap(grad)` and one AdamW over the stacks, the same batch for all; greatest "
        "difference of any parameter to the student trained alone, after the steps.",
        "It counts forward, backward and optimiser alone. The gain of the harness's step: with what else is in one, for each "
        "student its own (terms, weights, their log, batches), measured with `fixed_alpha`, which needs little of it. Data, "
        "scores and predictions come on top, and students of other seeds have batches of other widths.",
    ]
    return Outcome("several students on one core", rows, notes, targets)


def gain_of_step(gain: float, share: float) -> float:
    """Of a whole step, of which only a share becomes faster."""
    return 1 / (1 - share + share / gain)


def share_of_step(size: str, rounds: int) -> float:
    """Of the harness's step, what forward, backward and optimiser take."""
    (model,) = students(size, 1)
    rows = made_up_rows(BATCH * STEPS)
    training = make_training(Rows(None, rows, rows, rows.encoded, rows.encoded, VOCABULARY), "fixed_alpha", model=model)
    step = step_of(training)

    def steps(_: int) -> None:
        for index in range(STEPS):
            step(index)

    taken = in_turns({"whole": steps, "bare": in_turn(size, 1)}, rounds)
    return min(1.0, median_ratio(taken["bare"], taken["whole"]))


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


def students(size: str, count: int, attention: Any = "sdpa") -> list[torch.nn.Module]:
    config = {"model_type": "bert", "num_attention_heads": 2, **STUDENTS[size]}
    return [build_model(ModelSpec(config=config, dropout=0.0), 2, seed, VOCABULARY, attention) for seed in range(count)]


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(4, VOCABULARY, (BATCH, LENGTH), generator=generator)
    return tokens, torch.randint(0, 2, (BATCH,), generator=generator)


def train(model: torch.nn.Module, steps: int) -> torch.nn.Module:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    for step in range(steps):
        tokens, labels = batch(step)
        F.cross_entropy(model(input_ids=tokens).logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return model


def in_turn(size: str, count: int) -> Callable[[int], object]:
    models = students(size, count)
    return lambda _: [train(model, STEPS) for model in models]


def stacked(size: str, count: int) -> Callable[[int], object]:
    models = students(size, count, "eager")  # fused attention has no batching rule on a CPU
    return lambda _: train_stacked(models, STEPS)


def train_stacked(models: list[torch.nn.Module], steps: int) -> dict[str, torch.Tensor]:
    parameters, buffers = stack_module_state(models)
    base = copy.deepcopy(models[0])
    optimizer = torch.optim.AdamW(list(parameters.values()), lr=1e-3, fused=True)

    def loss(given: dict[str, torch.Tensor], held: dict[str, torch.Tensor], tokens: Any, labels: Any) -> torch.Tensor:
        logits = functional_call(base, (given, held), kwargs={"input_ids": tokens}).logits
        return F.cross_entropy(logits, labels)

    gradients = vmap(grad(loss), in_dims=(0, 0, None, None))
    for step in range(steps):
        found = gradients(parameters, buffers, *batch(step))
        for name, parameter in parameters.items():
            # vmap may put the students' dimension elsewhere in memory, and the fused AdamW goes by memory, not by strides
            parameter.grad = found[name].detach().contiguous()
        optimizer.step()
    return parameters


def difference(size: str, count: int) -> float:
    """Of any parameter, in float64: Adam turns a gradient that is zero but for rounding into steps of full size."""
    together = train_stacked([model.double() for model in students(size, count, "eager")], STEPS)
    alone = [dict(train(model.double(), STEPS).named_parameters()) for model in students(size, count)]
    return max(float((together[name][k] - one[name]).detach().abs().max()) for k, one in enumerate(alone) for name in one)


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
        (model,) = students(size, 1)
        train(model, 2)
        pipe.send("ready")
        pipe.recv()
        started, steps = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            train(model, STEPS)
            steps += STEPS
        pipe.send(steps / (time.perf_counter() - started))
