"""A training step on a CPU: what makes it cheaper, rw_kd's against a plain one, other programs, and what was tried besides.

CPU seconds of the process, one thread, alternatives in turns. What was found is handed on after every part of a stage, so that
a run that is cut leaves it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from harness.models.build import build_model
from harness.models.evaluate import WIDTH_STEPS
from harness.training.loop import Training
from tests.benchmarks.measure import compared, in_turns
from tests.benchmarks.outcome import Options, Outcome, Target
from tests.benchmarks.setting import STUDENT, Rows, glue_rows, make_training, precisions, step_of
from tests.benchmarks.step import peers, processes, rw_kd
from tests.harness.small_models import as_transformers_has_it

ROWS = 2500
ROUNDS, SECONDS = {"cola": 40, "mrpc": 16}, 20
OLD, MASKS = "transformers' layers, PyTorch's dropout", "transformers' layers, dropout of 16 bits"
LEAN = "lean layers, dropout of 16 bits"
WIDTHS = {f"{LEAN}, widths in steps of {width}": width for width in (8, 4, 1)}
"""Of bf16, whose step is 2 (in fp32 it is 1). For rows of more than `harness.data.encode.SHORT` tokens 4 is 8 as well."""
CLIPPED, FROZEN = "the same, clipped by AdamW's grad_scale (tried)", "the same, word embeddings frozen (tried)"
PRODUCTS = "its matrix products alone"
AT_LEAST = {"cola": 1.4, "mrpc": 1.5}
"""How many times faster than the old step is wanted, in bf16."""
NOTES = [
    "Student: MiniLM, 3 layers, its own dropout 0.1; batch 32; CPU seconds of the process, one thread, alternatives in turns. "
    "Ratios of seconds (below 1: faster): medians over rounds of that within a round, `of the first` of the stage and `of the "
    "one before`; `of all rounds`: of their sums, as batches differ in length.",
    f"Tried and not taken: `{CLIPPED}`; `{FROZEN}`, the bound of what an update that skips rows without a gradient could save, "
    "where tokens that the task does not use are left out already. The matrix products: those of the lean step, replayed.",
]


def run(options: Options) -> Iterator[Outcome]:
    torch.set_num_threads(1)
    stages: dict[str, Callable[[Options], Iterator[Outcome]]] = {
        "plain": plain,
        "rw_kd": rw_kd.run,
        "epoch": peers.run,
        "process": processes.run,
    }
    whole = Outcome("a training step on a CPU", [], list(NOTES))
    if "bf16" not in precisions():
        whole.notes.append("bf16 is not measured: this processor has no instructions for it.")
    left = list(stages)
    for name, stage in stages.items():
        for part in stage(options):
            whole.rows += part.rows
            whole.targets += part.targets
            whole.notes += [note for note in part.notes if note not in whole.notes]
            yield Outcome(whole.title, whole.rows, [f"Cut short. Not whole: {', '.join(left)}.", *whole.notes], whole.targets)
        left.remove(name)
    yield whole


def plain(options: Options) -> Iterator[Outcome]:
    """A plain KD step with what makes it cheaper, one after another."""
    for task in ("cola",) if options.small else ROUNDS:
        rows = glue_rows(task, 300 if options.small else ROWS, options.cache)
        for precision in ("fp32", "bf16"):
            target = f"{task}, bf16: plain step, times as fast as before"
            if precision not in precisions():
                yield Outcome("", [], [], [Target(target, None, at_least=AT_LEAST[task])])
                continue
            rounds = 2 if options.small else ROUNDS[task]
            warm_up = rounds if precision == "bf16" else 1  # bf16's kernels are compiled for each shape
            steps = {name: one(rows, precision, name) for name in ways(precision)}
            seconds = in_turns({**steps, PRODUCTS: products(rows, precision)}, rounds, warm_up, time.process_time, SECONDS)
            about = {"stage": "plain", "task": task, "precision": precision}
            found = [about | row for row in compared(seconds, dict.fromkeys((CLIPPED, FROZEN, PRODUCTS), LEAN))]
            best = max(sum(seconds[OLD]) / sum(seconds[name]) for name in (MASKS, LEAN, *WIDTHS) if name in seconds)
            targets = [Target(target, best, at_least=AT_LEAST[task])] if precision == "bf16" else []
            yield Outcome("", found, [], targets)


def ways(precision: str) -> list[str]:
    return [OLD, MASKS, LEAN, *(WIDTHS if precision == "bf16" else ()), CLIPPED, FROZEN]


def one(rows: Rows, precision: str, name: str) -> Callable[[int], object]:
    model = as_transformers_has_it(
        build_model(STUDENT, 2, 1, rows.vocabulary), dropout=name == OLD, layers=name in (OLD, MASKS)
    )
    if name == FROZEN:
        model.get_input_embeddings().weight.requires_grad_(False)
    training = make_training(rows, "fixed_alpha", precision=precision, model=model)
    step = step_of(training)
    if name == CLIPPED:
        return lambda index: _with_clip_in_the_optimizer(training, step, index)
    width = WIDTHS.get(name, WIDTH_STEPS["cpu", precision])

    def with_width(index: int) -> None:
        with mock.patch.dict(WIDTH_STEPS, {("cpu", precision): width}):
            step(index)

    return with_width


def _with_clip_in_the_optimizer(training: Training, step: Callable[[int], object], index: int) -> None:
    """The gradient is divided by the clip's factor where fused AdamW reads it, and not in a pass of its own."""
    optimizer: Any = training.optimizer

    def scale(parameters: Iterator[torch.nn.Parameter], bound: float) -> None:
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        optimizer.grad_scale, optimizer.found_inf = (norm / bound).clamp(min=1.0), torch.zeros(())

    with mock.patch.object(torch.nn.utils, "clip_grad_norm_", scale):
        step(index)


class Products(TorchDispatchMode):
    """Notes the factors of every matrix product: size and stride of both, and their type."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[torch.dtype, tuple[Any, ...], tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm", "baddbmm"):
            self._add(*args[-2:])
        elif name.startswith("_scaled_dot_product"):
            q, k = (tensor.flatten(0, 1) for tensor in (args[1:3] if name.endswith("backward") else args[:2]))
            scores = q.new_empty(len(q), q.shape[1], k.shape[1])
            if name.endswith("backward"):  # of values, weights, queries, keys
                self._add(scores.mT, q)
                self._add(q, k.mT)
                self._add(scores, k)
                self._add(scores.mT, q)
            else:
                self._add(q, k.mT)
                self._add(scores, k)
        return func(*args, **(kwargs or {}))

    def _add(self, a: Tensor, b: Tensor) -> None:
        self.found.append((a.dtype, (a.shape, a.stride()), (b.shape, b.stride())))


def products(rows: Rows, precision: str) -> Callable[[int], float]:
    """The matrix products of a lean step, without anything else; seconds of the process."""
    training = make_training(rows, "fixed_alpha", precision=precision)
    step, batches = step_of(training), len(training.batches.epoch(0))
    known: dict[int, list[Any]] = {}
    buffers: dict[tuple[torch.dtype, int], Tensor] = {}

    def factor(place: int, dtype: torch.dtype, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        needed = 1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        if (dtype, place) not in buffers or len(buffers[dtype, place]) < needed:
            buffers[dtype, place] = torch.rand(needed).to(dtype)
        return buffers[dtype, place].as_strided(size, stride)

    def replay(index: int) -> float:
        key = index % batches
        if key not in known:
            with Products() as recorded:
                step(index)
            known[key] = recorded.found
        work = [(factor(0, dtype, *a), factor(1, dtype, *b)) for dtype, a, b in known[key]]
        outs = [factor(2, a.dtype, *_contiguous((*a.shape[:-1], b.shape[-1]))) for a, b in work]
        started = time.process_time()
        for (a, b), out in zip(work, outs, strict=True):
            torch.matmul(a, b, out=out)
        return time.process_time() - started

    return replay


def _contiguous(size: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return size, torch.empty(size, device="meta").stride()
