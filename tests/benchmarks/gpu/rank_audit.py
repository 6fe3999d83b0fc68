"""Collectives of a training step on two ranks, and exchanges of sizes, each of which is a wait with NCCL; gloo on the CPU.

python -m tests.benchmarks.gpu.rank_audit
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tests.harness.two_workers import run_on_two_workers

CODE = """
import collections, json
from pathlib import Path
import torch.distributed as dist
from harness.ranks import ProcessGroup
from tests.benchmarks.gpu.bench import Bench
from tests.benchmarks.setting import step_of
count = collections.Counter()
def counted(owner, name):
    plain = getattr(owner, name)
    def call(*given, **named):
        count[name] += 1
        return plain(*given, **named)
    setattr(owner, name, call)
counted(dist, "all_gather")
counted(dist, "all_reduce")
counted(ProcessGroup, "gather_rows")
counted(ProcessGroup, "gather_shards")
bench = Bench(small=True, glue=Path())
for strategy, settings in (("fixed_alpha", {}), ("rw_kd", {}), ("rw_kd", {"reading": "per_sample"})):
    training = bench.training(bench.task(), "minilm3", strategy, settings, "fp32", ranks=ProcessGroup())
    step = step_of(training)
    for index in range(4):
        step(index)
    count.clear()
    step(4)
    if dist.get_rank() == 0:
        Path(sys.argv[1], f"{strategy} {json.dumps(settings)}").write_text(json.dumps(count))
"""


def collectives() -> dict[str, dict[str, int]]:
    """Strategy and settings -> name of a call -> how often a step makes it, beside DDP's own."""
    with tempfile.TemporaryDirectory() as folder:
        run_on_two_workers(CODE, folder)
        return {file.name: json.loads(file.read_text()) for file in sorted(Path(folder).iterdir())}


if __name__ == "__main__":
    for name, found in collectives().items():
        print(f"{name:40} {found}")
