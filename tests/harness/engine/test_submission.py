"""A study submitted to a cluster that was started with `ray start`, on loopback."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from harness.store.store import Store
from tests.harness.tiny import tiny_study

PROJECT = Path(__file__).resolve().parents[3]
RAY = Path(sys.executable).parent / "ray"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {**kept, **token, "HARNESS_CACHE": str(tmp_path / "cache")}


@pytest.fixture
def dashboard(environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """Address of the head node's job server."""
    port = free_port()
    command = [
        str(RAY),
        "start",
        "--head",
        "--block",
        "--num-cpus=2",
        "--disable-usage-stats",
        "--object-store-memory=100000000",
    ]
    command += [
        f"--port={free_port()}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={port}",
        f"--ray-client-server-port={free_port()}",
        # by default one fixed port, which another Ray on this machine may hold: then no agent can run a job
        f"--dashboard-agent-listen-port={free_port()}",
    ]
    with (tmp_path / "head.log").open("w") as log:
        # a session of its own: its processes, and no other Ray's on this machine, are ended with it
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + 120
            while "Ray runtime started" not in (tmp_path / "head.log").read_text():
                assert head.poll() is None, (tmp_path / "head.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            head.send_signal(signal.SIGTERM)
            try:
                head.wait(timeout=60)  # it drains for up to 30 s
            finally:
                if head.poll() is None:
                    os.killpg(head.pid, signal.SIGKILL)


def submit(dashboard: str, environment: dict[str, str], *study: str) -> subprocess.CompletedProcess[str]:
    command = [str(RAY), "job", "submit", "--address", dashboard, "--working-dir", ".", "--"]
    command += [sys.executable, "-m", "harness.run", *study]
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=250, check=False)
        # a cluster that has just started has no agent yet to run the job
        if "No available agent to submit job" not in done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(1)


@pytest.mark.slow
def test_a_tiny_study_runs_as_a_ray_job(dashboard: str, environment: dict[str, str], tmp_path: Path) -> None:
    resources = {"engine": "ray", "concurrent_trials": 1}
    study = tiny_study(results=str(tmp_path / "results"), resources=resources, training={"epochs": 1})
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(json.loads(study.model_dump_json())))
    done = submit(dashboard, environment, str(tmp_path / "tiny.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    store = Store(tmp_path / "results" / "tiny")
    assert [record.status for record in store.records()] == ["ok"]
    assert (store.path / "index.html").is_file()
    assert store.events()[-1]["kind"] == "ended"


@pytest.mark.slow
def test_a_study_of_two_workers_runs_as_a_ray_job(dashboard: str, environment: dict[str, str], tmp_path: Path) -> None:
    results = tmp_path / "results"
    changes = [
        f"results={results}",
        "tasks=[rte]",
        "resources.workers=2",
        "strategies=[fixed_alpha, ce_only]",
        "search.trials=1",
        "search.repeats=1",
        "training.epochs=1",
        "data.train_rows=100",
        "data.teacher_rows=20",
        "data.generated.train_rows=120",
        "data.generated.report_rows=50",
    ]
    done = submit(dashboard, environment, "studies/quickstart.yaml", *(w for c in changes for w in ("--set", c)))
    assert done.returncode == 0, done.stdout + done.stderr
    records = Store(results / "quickstart").records()
    assert {record.spec.label: record.status for record in records} == {"fixed_alpha": "ok", "ce_only": "ok"}
    assert {record.spec.resources.workers for record in records} == {2}


@pytest.mark.slow
def test_an_address_where_nobody_answers_is_the_users_error(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harness.run", "studies/quickstart.yaml", "--address", f"127.0.0.1:{free_port()}"]
    command += ["--set", f"results={tmp_path}"]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 2
    assert "error: no Ray cluster answers at" in done.stderr
    assert "Traceback" not in done.stderr
