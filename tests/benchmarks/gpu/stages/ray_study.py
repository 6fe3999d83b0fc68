"""The same study under Ray, four trials on the GPU at once; and one strategy through Ray Train with one rank."""

from __future__ import annotations

import importlib.util

from tests.benchmarks.gpu.bench import Bench
from tests.benchmarks.gpu.stages import Found
from tests.benchmarks.gpu.stages.study import run_study


def run(found: Found, bench: Bench) -> None:
    if importlib.util.find_spec("ray") is None:
        found.say("Ray is not installed")
        return
    gpus = (0.25, 1) if bench.cuda else (0, 0)
    run_study(found, bench, "tune", "ray", {"resources.gpus_per_worker": gpus[0], "resources.cpus_per_worker": 1})
    changes = {"resources.gpus_per_worker": gpus[1], "resources.trainer": "ray_train", "strategies": ["fixed_alpha"]}
    run_study(found, bench, "train", "ray", changes)
