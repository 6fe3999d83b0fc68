"""Several students on one core at once: as processes, and stacked in one program with `torch.func.vmap`."""

from __future__ import annotations

import copy
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F

from harness.models import build_model
from harness.study import ModelSpec
from tests.benchmarks.measure import in_turns, median_ratio
from tests.benchmarks.outcome import Options, Outcome

COUNTS = (1, 2, 4, 8)
SIZES = {"tiny": 16, "small": 64}
"""Hidden sizes: of the tests' student, and of quickstart's order."""
STEPS = 12
BATCH, LENGTH, VOCABULARY = 32, 16, 500


def run(options: Options) -> Outcome:
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name, hidden in SIZES.items():
        for count in COUNTS:
            seconds = in_turns({"in turn": in_turn(hidden, count), "stacked": stacked(hidden, count)}, rounds=5)
            row = {"students": name, "hidden size": hidden, "K": count, "way": "stacked in one program"}
            row["students' steps a second, in turn"] = round(count * STEPS / statistics.median(seconds["in turn"]))
            row["gain"] = round(median_ratio(seconds["in turn"], seconds["stacked"]), 2)
            row["greatest difference"] = f"{difference(hidden, count):.0e}"
            rows.append(row)
        alone = packed(hidden, 1)
        for count in COUNTS:
            rows.append({"students": name, "hidden size": hidden, "K": count, "way": "processes on one core"})
            rows[-1]["gain"] = round(packed(hidden, count) / alone, 2)
    notes = [
        "Two-layer BERT, batch 32 x 16 tokens, dropout off, AdamW, one core. Gain: students' steps a second against one "
        "student after another.",
        "Stacked: `stack_module_state`, `vmap(grad)` and one AdamW over the stacks; greatest difference of any parameter to "
        "the student trained alone, after the steps.",
    ]
    return Outcome("several students on one core", rows, notes)


def students(hidden: int, count: int) -> list[torch.nn.Module]:
    config = {
        "model_type": "bert",
        "hidden_size": hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 4 * hidden,
    }
    spec = ModelSpec(config=config, dropout=0.0)
    return [build_model(spec, 2, seed, VOCABULARY, "eager") for seed in range(count)]


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(4, VOCABULARY, (BATCH, LENGTH), generator=generator)
    return tokens, torch.randint(0, 2, (BATCH,), generator=generator)


def train(model: torch.nn.Module, steps: int, first: int = 0) -> torch.nn.Module:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    for step in range(first, first + steps):
        tokens, labels = batch(step)
        F.cross_entropy(model(input_ids=tokens).logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return model


def in_turn(hidden: int, count: int) -> Callable[[int], object]:
    models = students(hidden, count)
    return lambda _: [train(model, STEPS) for model in models]


def stacked(hidden: int, count: int) -> Callable[[int], object]:
    models = students(hidden, count)
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
            parameter.grad = found[name].detach()
        optimizer.step()
    return parameters


def difference(hidden: int, count: int) -> float:
    together = train_stacked(students(hidden, count), STEPS)
    alone = [dict(train(model, STEPS).named_parameters()) for model in students(hidden, count)]
    return max(float((together[name][k] - one[name]).detach().abs().max()) for k, one in enumerate(alone) for name in one)


def packed(hidden: int, count: int) -> float:
    """Students' steps a second of so many processes that share one core."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(count + 1)
    workers = [context.Process(target=_on_one_core, args=(hidden, barrier)) for _ in range(count)]
    for worker in workers:
        worker.start()
    barrier.wait()
    started = time.perf_counter()
    for worker in workers:
        worker.join()
    assert all(worker.exitcode == 0 for worker in workers)
    return count * 10 * STEPS / (time.perf_counter() - started)


def _on_one_core(hidden: int, barrier: Any) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    (model,) = students(hidden, 1)
    train(model, 3)
    barrier.wait()
    train(model, 10 * STEPS)
