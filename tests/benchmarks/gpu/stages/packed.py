"""K processes that train on one GPU, as `gpus_per_worker: 1/K` has it, and K students stacked in one process: the harness's own
step.
"""

from __future__ import annotations

import os
import subprocess
import sys

from harness.training.nvidia_smi import used_mib
from tests.benchmarks.gpu.bench import Bench
from tests.benchmarks.gpu.stages import Found
from tests.benchmarks.setting import steps_together

WORKER = """
import pathlib, sys, time
import torch
from tests.benchmarks.gpu.bench import Bench
from tests.benchmarks.setting import step_of
strategy, share, seconds = sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
bench = Bench(small=sys.argv[1] == "small", glue=pathlib.Path())
torch.set_num_threads(1)
if bench.cuda:
    torch.cuda.set_per_process_memory_fraction(share)
step = step_of(bench.training(bench.task(1024), "minilm3", strategy, {}, bench.precision))
for i in range(4 if bench.small else 40):
    step(i)
bench.synchronize()
print("ready", flush=True)
sys.stdin.readline()
began, steps = time.perf_counter(), 0
while time.perf_counter() - began < seconds:
    for _ in range(5):
        step(steps)
        steps += 1
    bench.synchronize()
print(steps / (time.perf_counter() - began), flush=True)
"""


def run(found: Found, bench: Bench) -> None:
    counts = (1, 2) if bench.small else (1, 2, 4, 8)
    for strategy in ("fixed_alpha", "rw_kd"):
        alone = 0.0
        for count in counts if strategy == "fixed_alpha" else (counts[0], counts[-1]):
            rates, used = together(strategy, count, bench.small, 1.0 if bench.small else 4.0)
            alone = alone or sum(rates)
            gain = sum(rates) / alone
            found.add("packed", {"strategy": strategy, "K": count, "steps_s": sum(rates), "gain": gain, "mib": used})
            speed = f"{sum(rates):7.1f} steps/s together, {gain:.2f} of one alone"
            found.say(f"{strategy:12} {count} processes: {speed}, {used:.0f} MiB used")
    alone = 0.0
    for count in (1, 2) if bench.small else (1, 2, 8, 32):
        rate = stacked(count, bench)
        alone = alone or rate
        found.add("stacked", {"strategy": "fixed_alpha", "K": count, "steps_s": rate, "gain": rate / alone})
        found.say(f"fixed_alpha  {count} students stacked: {rate:7.1f} steps/s together, {rate / alone:.2f} of one alone")


def stacked(count: int, bench: Bench) -> float:
    """Steps a second of `count` students together, as `resources.stacked` has it."""
    task = bench.task(1024)
    trainings = [bench.training(task, "minilm3", "fixed_alpha", {}, bench.precision) for _ in range(count)]
    steps = 2 if bench.small else 25
    steps_together(trainings, steps)
    return count * steps / bench.seconds(lambda: steps_together(trainings, steps))


def together(strategy: str, count: int, small: bool, seconds: float) -> tuple[list[float], float]:
    """Steps a second of each of `count` processes that train at the same time, and the MiB of the GPU that all of them use."""
    command = [sys.executable, "-c", WORKER, "small" if small else "", strategy, str(1 / count), str(seconds)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    workers = [subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, **pipes) for _ in range(count)]
    try:
        for worker in workers:
            if worker.stdout.readline().strip() != "ready":
                raise RuntimeError(worker.communicate()[1][-500:])
        used = used_mib()
        for worker in workers:
            worker.stdin.write("\n")
            worker.stdin.flush()
        return [float(worker.stdout.readline()) for worker in workers], used
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
