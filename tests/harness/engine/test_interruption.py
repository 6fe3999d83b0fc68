"""Ctrl-C, SIGTERM and kill -9 of the process that runs a study: nothing finished is lost or repeated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.records import TrialRecord
from tests.harness.engine.conftest import StandInRun
from tests.harness.engine.interrupted import interruptible_run

PROJECT = Path(__file__).resolve().parents[3]


def start(folder: Path, *address: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.harness.engine.interrupted", str(folder), *address]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_the_slow_trial(run: StandInRun, epoch: int) -> None:
    """Until the fast cell has finished and the slow one has, since this call, come to this epoch of its first trial."""
    known = len(run.log) if (run.cache / "log").exists() else 0
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if (run.cache / "log").exists():
            log = run.log[known:]
            if len(run.store.keys()) == 2 and ((log.label == "slow") & (log.kind == "epoch") & (log.epoch >= epoch)).any():
                return
        time.sleep(0.1)
    raise TimeoutError("the run did not get there")


def finished(run: StandInRun) -> dict[str, TrialRecord]:
    return {record.key: record for record in run.store.records()}


def interrupt(process: subprocess.Popen[str], number: int) -> float:
    """Seconds until the process has ended."""
    began = time.monotonic()
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=30)
    assert (out, err) == ("", "")
    return time.monotonic() - began


@pytest.mark.slow
def test_a_run_goes_on_after_ctrl_c_and_after_kill_9(cluster: None, tmp_path: Path) -> None:
    import ray

    run = interruptible_run(tmp_path)
    first = start(tmp_path)
    wait_for_the_slow_trial(run, epoch=1)
    assert interrupt(first, signal.SIGINT) < 10
    assert first.returncode == 130
    stored = finished(run)
    assert {record.spec.label for record in stored.values()} == {"plain"}

    reached = run.log[run.log.label == "slow"].epoch.max()
    second = start(tmp_path, ray.get_runtime_context().gcs_address)
    wait_for_the_slow_trial(run, epoch=reached + 2)
    interrupt(second, signal.SIGKILL)
    assert finished(run) == stored

    run()
    assert len(finished(run)) == 4
    assert {key: record for key, record in finished(run).items() if key in stored} == stored
    starts = run.log[run.log.kind == "starts"]
    assert list(starts[starts.label == "plain"].epoch) == [0, 0]  # two trials, each once
    begun, after_ctrl_c, after_kill, next_trial = starts[starts.label == "slow"].epoch
    assert (begun, next_trial) == (0, 0)
    assert 1 <= reached <= after_ctrl_c  # went on from the checkpoint of the run that Ctrl-C ended
    assert reached + 2 <= after_kill


@pytest.mark.slow
def test_sigterm_ends_a_run_as_ctrl_c_does(tmp_path: Path) -> None:
    run = interruptible_run(tmp_path)
    process = start(tmp_path)
    wait_for_the_slow_trial(run, epoch=0)
    assert interrupt(process, signal.SIGTERM) < 10
    assert process.returncode == 130
    assert len(finished(run)) == 2
