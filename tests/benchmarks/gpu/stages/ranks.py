"""DDP and collectives on one rank against none; two ranks on one GPU with NCCL, which must refuse it, and with gloo."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
import torch.distributed as dist

from harness.ranks import ProcessGroup, Single
from harness.training.weight_log import WeightLog
from tests.benchmarks.gpu.bench import Bench
from tests.benchmarks.gpu.stages import Found

TWO_RANKS = """
import pathlib, sys
import torch.distributed as dist
from harness.ranks import ProcessGroup
from harness.training.weight_log import WeightLog
from tests.benchmarks.gpu.bench import Bench
dist.init_process_group(sys.argv[1])
bench = Bench(small=sys.argv[2] == "small", glue=pathlib.Path())
training = bench.training(bench.task(256), "minilm3", "fixed_alpha", {}, "fp32", ranks=ProcessGroup())
loss, _ = training._step(0, training.batches.epoch(0)[0], WeightLog(None))
print("trained a step, loss", float(loss), training.device, flush=True)
"""


def run(found: Found, bench: Bench) -> None:
    backend = "nccl" if bench.cuda else "gloo"
    os.environ.update(_rank(0, 1, _free_port()))
    dist.init_process_group(backend)
    try:
        steps = {
            f"{kind} {strategy}": _steps(bench, strategy, ranks)
            for kind, ranks in (("single", Single()), (backend, ProcessGroup()))
            for strategy in ("fixed_alpha", "rw_kd")
        }
    finally:
        dist.destroy_process_group()
    found.put("one_rank", steps)
    shown = {name: (round(one["losses"][-1], 5), round(one["ms"], 2)) for name, one in steps.items()}
    found.say(f"one rank, {backend}: {shown} (loss, ms)")
    for kind in ("nccl", "gloo") if bench.cuda else ("gloo",):
        began = time.monotonic()
        said = two_ranks(kind, bench.small, 150 if bench.small else 30)
        seconds = time.monotonic() - began
        found.put(f"two_ranks_{kind}", {"seconds": seconds, "said": said})
        found.say(f"two ranks on one device, {kind}: {seconds:.0f} s: {said[-1][-220:]}")


def two_ranks(backend: str, small: bool, limit: float) -> list[str]:
    """The last lines that each rank wrote."""
    port = _free_port()
    command = [sys.executable, "-c", TWO_RANKS, backend, "small" if small else ""]
    workers = [
        subprocess.Popen(
            command, env=os.environ | _rank(rank, 2, port), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for rank in range(2)
    ]
    said = []
    until = time.monotonic() + limit
    for worker in workers:
        try:
            text = worker.communicate(timeout=max(1, until - time.monotonic()))[0]
        except subprocess.TimeoutExpired:
            worker.kill()
            text = worker.communicate()[0] + "\nHUNG"
        said.append(" | ".join([line for line in text.strip().splitlines() if line.strip()][-3:])[-600:])
    return said


def _steps(bench: Bench, strategy: str, ranks: Any) -> dict[str, Any]:
    training = bench.training(bench.task(512), "minilm3", strategy, {}, "fp32", ranks=ranks)
    torch.manual_seed(0)  # the same dropout
    batches = training.batches.epoch(0)
    log = WeightLog(None)
    losses = [float(training._step(0, batches[i], log)[0]) for i in range(3)]
    times = [
        bench.seconds(lambda i=i: training._step(0, batches[i % len(batches)], log)) for i in range(3, 5 if bench.small else 13)
    ]
    return {"losses": losses, "ms": 1e3 * statistics.median(times)}


def _rank(rank: int, world: int, port: int) -> dict[str, str]:
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(world)}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
