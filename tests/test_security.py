"""Nothing from a store, a checkpoint, a cache or a study is executed, and nothing reports to the outside."""

from __future__ import annotations

import ast
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.data.teacher_outputs import TeacherOutputs, teacher_folder
from harness.engine.cluster import ENVIRONMENT, connect
from harness.errors import StudyError
from harness.store.store import Store
from harness.study.file import read_study
from harness.training.checkpoint import FILE, CheckpointError
from harness.training.trial import train_trial
from tests.conftest import PROJECT
from tests.harness.tiny import default_specs, tiny_study

SOURCES = sorted([*(PROJECT / "harness").rglob("*.py"), *(PROJECT / "strategies").rglob("*.py")])
FORBIDDEN = {
    "eval", "exec", "compile", "pickle.load", "pickle.loads", "marshal.loads", "os.system", "yaml.unsafe_load",
    "yaml.full_load", "joblib.load", "pd.read_pickle", "pandas.read_pickle", "shelve.open",
}  # fmt: skip


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.sign),)


def test_a_checkpoint_that_holds_code_is_refused(tmp_path: Path) -> None:
    (spec,) = default_specs(tiny_study(), tmp_path / "cache")
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    torch.save({"model": Bomb(tmp_path / "executed")}, checkpoint / FILE)
    with pytest.raises(CheckpointError, match="Weights only load failed"):
        train_trial(spec, tmp_path / "cache", resume_from=checkpoint)
    assert not (tmp_path / "executed").exists()


def test_a_store_that_holds_pickles_is_damaged_and_not_executed(tmp_path: Path) -> None:
    content = pickle.dumps(Bomb(tmp_path / "executed"))
    key = "a" * 24
    for name in ("trials", "predictions"):
        file = tmp_path / "store" / name / "aa" / f"{key}.{'json' if name == 'trials' else 'parquet'}"
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
    store = Store(tmp_path / "store")
    assert store.records() == []
    assert key in store.damaged
    assert not (tmp_path / "executed").exists()


def test_teacher_outputs_that_hold_objects_are_refused(tmp_path: Path) -> None:
    folder = teacher_folder(tmp_path, "digest")
    folder.mkdir(parents=True)
    (folder / "teacher.json").write_text('{"report": {}, "parameters": 1, "hidden_size": 1}')
    objects = np.empty(1, object)
    objects[0] = Bomb(tmp_path / "executed")
    np.save(folder / "train_ids.npy", objects, allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        TeacherOutputs.load(tmp_path, "digest")
    assert not (tmp_path / "executed").exists()


def test_a_study_cannot_make_objects(tmp_path: Path) -> None:
    sign = tmp_path / "executed"
    (tmp_path / "study.yaml").write_text(f"name: !!python/object/apply:os.mkdir ['{sign}']\n")
    with pytest.raises(StudyError):
        read_study(tmp_path / "study.yaml")
    assert not sign.exists()


def test_no_source_calls_what_executes_data() -> None:
    found = []
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            bad = (
                name in FORBIDDEN
                or (name == "torch.load" and given.get("weights_only") != "True")
                or (name == "yaml.load" and given.get("Loader") != "_Loader")
                or given.get("allow_pickle") == "True"
                or given.get("trust_remote_code") == "True"
                or given.get("shell") == "True"
            )
            if bad:
                found.append(f"{file.relative_to(PROJECT)}:{node.lineno}: {name}")
    assert found == []


def test_a_cluster_of_our_own_has_no_dashboard_and_reports_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import ray

    given: dict[str, Any] = {}

    class Started(Exception):
        pass

    def init(**options: Any) -> None:
        given.update(options)
        raise Started

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, os.environ.get(name, "token"))
    with pytest.raises(Started), connect(None, tmp_path):
        pass
    assert given["include_dashboard"] is False
    assert given["address"] == "local"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == ENVIRONMENT["RAY_USAGE_STATS_ENABLED"] == "0"


LISTENERS = """
import sys, threading
from pathlib import Path
import psutil
from harness.engine.cluster import connect

folder, heard, over = Path(sys.argv[1]), set(), threading.Event()

def listen():
    while not over.wait(0.2):
        for process in psutil.Process().children(recursive=True):
            try:
                found = process.net_connections("tcp")
                heard.update((process.name(), one.laddr.ip) for one in found if one.status == psutil.CONN_LISTEN)
            except psutil.Error:
                pass

with connect(None, folder, cpus=2):
    from harness.engine.ray_tune import run_plan
    from harness.store.store import Store
    from harness.watching.console import Console
    from tests.harness.engine.stand_in import stand_in_plan, stand_in_study, stand_in_train

    threading.Thread(target=listen, daemon=True).start()
    plan, prepared = stand_in_plan(stand_in_study(["slow"], search={"trials": 2}, resources={"workers": 2}))
    run_plan(plan, prepared, Store(folder / "store"), Console(quiet=True), folder, train=stand_in_train)
over.set()
assert [record.status for record in Store(folder / "store").records()] == ["ok", "ok"]
for name, address in sorted(heard):
    print(name, address)
"""


@pytest.mark.slow
def test_a_cluster_of_our_own_listens_on_loopback_alone(tmp_path: Path) -> None:
    """Ray's servers and workers, and the process group of a trial of two ranks."""
    command = [sys.executable, "-c", LISTENERS, str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    listening = [line.rsplit(" ", 1) for line in done.stdout.splitlines()]
    assert {"gcs_server", "raylet"} <= {name for name, _ in listening}
    assert any("Worker" in name or "worker" in name for name, _ in listening), listening
    assert {address.removeprefix("::ffff:") for _, address in listening} <= {"127.0.0.1", "::1"}, listening
