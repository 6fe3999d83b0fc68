"""Milliseconds of the harness's step, in turns; what of it the GPU works; model-FLOP utilisation; memory."""

from __future__ import annotations

import collections
import statistics
import time
from collections.abc import Callable

import torch

from tests.benchmarks.gpu.bench import VARIANTS, Bench, as_text, flops_a_sample, utilisation
from tests.benchmarks.gpu.stages import Found
from tests.benchmarks.measure import median_ratio
from tests.benchmarks.setting import step_of

PLANS = [
    ("minilm3", "bf16", 32, 64, VARIANTS),
    ("minilm3", "fp32", 32, 64, VARIANTS[:5]),
    ("distil6", "bf16", 32, 128, VARIANTS[:5]),
    ("minilm3", "bf16", 128, 64, VARIANTS[:2]),
]
"""Student, precision, batch size, longest row in tokens, variants."""

Step = Callable[[int], None]


def run(found: Found, bench: Bench) -> None:
    for student, precision, batch, longest, variants in PLANS[:1] if bench.small else PLANS:
        task = bench.task(longest=longest)
        steps = {
            name: step_of(bench.training(task, student, strategy, settings, precision, batch))
            for strategy, settings, name in (variants[:3] if bench.small else variants)
        }
        taken = _in_turns(bench, steps)
        for name, step in steps.items():
            seconds = statistics.median(taken[name])
            ratio = median_ratio(taken[name], taken["plain KD"])
            busy, kernels = _profiled(step, bench)
            entry = {
                "student": student,
                "precision": precision,
                "batch": batch,
                "variant": name,
                "ms": 1e3 * seconds,
                "of_plain": ratio,
                "samples_s": batch / seconds,
                "gpu_busy": busy,
                "kernels": kernels,
                "peak_mib": torch.cuda.max_memory_allocated() / 2**20 if bench.cuda else None,
            }
            if name == "plain KD":
                flops = flops_a_sample(bench.config(student), float(task.fit.encoded.lengths.mean()))
                entry["mfu_percent"] = utilisation(flops * batch / seconds)
            found.add("steps", entry)
            shown = "" if busy is None else f"  {busy:.0%} busy, {kernels} kernels"
            found.say(
                f"{student} {precision} batch {batch} {name:20} {1e3 * seconds:7.2f} ms  {ratio:5.2f} of plain  "
                f"{batch / seconds:7.0f} rows/s{shown}{as_text(entry.get('mfu_percent'))}"
            )


def _in_turns(bench: Bench, steps: dict[str, Step]) -> dict[str, list[float]]:
    """Seconds a step: name -> one for each round. Two rounds before them warm up shapes and plans."""
    rounds, each = (2, 2) if bench.small else (7, 10)
    taken: dict[str, list[float]] = collections.defaultdict(list)
    for k in range(-2, rounds):
        for name, step in steps.items():
            first = abs(k) * each
            seconds = bench.seconds(lambda step=step, first=first: [step(first + i) for i in range(each)])
            if k >= 0:
                taken[name].append(seconds / each)
    return taken


def _profiled(step: Step, bench: Bench) -> tuple[float | None, int | None]:
    """Share of the time in which a kernel runs, and kernels a step; None without a GPU."""
    if not bench.cuda:
        return None, None
    from torch.profiler import ProfilerActivity, profile

    for i in range(3):
        step(i)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for i in range(5):
        step(i)
    torch.cuda.synchronize()
    wall = time.perf_counter() - began
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for i in range(5):
            step(i)
        torch.cuda.synchronize()
    kernels = [event for event in profiler.events() if str(event.device_type).endswith("CUDA")]
    working = sum(event.time_range.elapsed_us() for event in kernels) / 1e6
    return working / wall, len(kernels) // 5
