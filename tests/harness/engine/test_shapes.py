"""Cells of different shapes in one study, fractions of a GPU among them, on a cluster with a GPU that only Ray believes in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import PROJECT

SCRIPT = """
import json, sys
from pathlib import Path
import ray
from harness.engine.cluster import ray_slots, set_environment

set_environment()
ray.init(
    address="local", num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
    object_store_memory=2**27,
)
from tests.harness.engine.conftest import StandInRun

folder = Path(sys.argv[1])
run = StandInRun(
    folder,
    ["plain", "gpus"],
    tasks=["sst2", "rte", "qnli"],
    search={"trials": 1},
    resources={
        "cpus_per_worker": 0.5,
        "gpus_per_worker": 0.25,
        "memory_per_worker": 2**20,
        "per_task": {"rte": {"cpus_per_worker": 1, "gpus_per_worker": 0.5}, "qnli": {"workers": 2, "cpus_per_worker": 1}},
    },
)
slots = {cell.task.name: ray_slots(cell.resources) for cell in run.plan.cells}
run()
ends = {f"{r.spec.task.name}/{r.spec.label}": r.status if r.error is None else r.error.message for r in run.store.records()}
print(json.dumps({"slots": slots, "ends": ends}))
"""


def test_cells_of_different_shapes_run_in_one_study(tmp_path: Path) -> None:
    # Ray would write a token into the home directory, where other tests would find it
    environment = {**os.environ, "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN", "0" * 64)}
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    said = json.loads(found.stdout.strip().splitlines()[-1])
    assert said["slots"] == {"sst2": 4, "rte": 2, "qnli": 2}
    assert set(said["ends"].values()) == {"ok"}
    assert len(said["ends"]) == 6
    log = [json.loads(line) for line in (tmp_path / "cache" / "log").read_text().splitlines()]
    given = {(line["task"], line["gpus"]) for line in log}
    assert given == {("sst2", "0"), ("rte", "0"), ("qnli", "")}
    assert {line["rank"] for line in log if line["task"] == "qnli"} == {0, 1}
