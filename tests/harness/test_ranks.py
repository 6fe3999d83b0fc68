"""Two real processes against one: gathering, sums, and whole trainings."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from harness.trial import train_trial
from tests.harness.tiny import default_specs, tiny_study

WORKER = """
import json, sys
from pathlib import Path
import torch, torch.distributed as dist
from harness.ranks import ProcessGroup
from harness.records import TrialSpec
from harness.trial import train_trial

dist.init_process_group("gloo")
ranks = ProcessGroup()
own = torch.arange(ranks.rank * 10, ranks.rank * 10 + 3 + ranks.rank)
assert ranks.gather_rows(own).tolist() == [0, 1, 2, 10, 11, 12, 13]
wide = own.expand(2, -1).float()
assert ranks.gather_rows(wide, dim=1).shape == (2, 7)
total = torch.tensor([1.0 + ranks.rank])
ranks.sum_([total])
assert total.item() == 3.0
cache = Path(sys.argv[1])
for line in (cache / "specs.jsonl").read_text().splitlines():
    outcome = train_trial(TrialSpec.model_validate_json(line), cache, ranks)
    if ranks.rank == 0:
        file = cache / f"{outcome.record.spec.label}.json"
        file.write_text(outcome.record.model_dump_json())
dist.destroy_process_group()
"""


def test_two_workers_train_as_one(tmp_path: Path) -> None:
    labels = ["fixed_alpha", "random_weights", "rw_kd"]
    specs = default_specs(tiny_study(strategies=labels), tmp_path)
    (tmp_path / "specs.jsonl").write_text("\n".join(spec.model_dump_json() for spec in specs))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path)],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    for spec in specs:
        alone = train_trial(spec, tmp_path).record
        together = json.loads((tmp_path / f"{spec.label}.json").read_text())
        for one, two in zip(alone.epochs, together["epochs"], strict=True):
            assert two["train_loss"] == pytest.approx(one.train_loss, rel=1e-4)
            assert two["select"] == pytest.approx(one.select)
            assert two["weights"]["kd"]["quantiles"] == pytest.approx(one.weights["kd"].quantiles, abs=1e-3)
        assert together["cost"]["student_forward"] == alone.cost.student_forward
