"""Where a step makes the host wait for the GPU: PyTorch's own watch, `torch.cuda.set_sync_debug_mode`."""

from __future__ import annotations

import collections
import warnings
from pathlib import Path

import torch

from tests.benchmarks.gpu.bench import VARIANTS, Bench
from tests.benchmarks.gpu.stages import Found
from tests.benchmarks.setting import step_of


def run(found: Found, bench: Bench) -> None:
    if not bench.cuda:
        found.say("no CUDA device; tests/benchmarks/gpu/device_audit.py counts waits on a simulated one")
        return
    task = bench.task(512)
    for strategy, settings, name in VARIANTS:
        step = step_of(bench.training(task, "minilm3", strategy, settings, "bf16"))
        for i in range(4):
            step(i)
        torch.cuda.synchronize()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                step(4)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        places = collections.Counter(
            f"{'/'.join(Path(w.filename).parts[-2:])}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)
        )
        found.add("waits", {"variant": name, "count": places.total(), "places": places.most_common()})
        found.say(f"{name:20} {places.total()} waits a step: {dict(places.most_common(5))}")
