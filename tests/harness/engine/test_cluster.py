"""Connections to Ray, and tasks on it."""

from __future__ import annotations

import ast
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from harness.engine import engine_for
from harness.engine.cluster import ClusterError, _knock, _link, connect, map_tasks, ray_slots, require_slots
from harness.plan.plan import make_plan
from harness.study.resources import NodeShape, TaskResources
from harness.teachers.fine_tuning import make_teacher
from harness.teachers.prepare import _teacher_jobs
from tests.conftest import PROJECT
from tests.harness.engine.stand_in import Refused, die_until, invert
from tests.harness.tiny import tiny_study


def test_tasks_come_back_with_their_items_and_errors(cluster: None) -> None:
    results = dict(map_tasks(invert, [1, 0, 4], cpus=lambda item: 1, gpus=lambda item: 0))
    assert results[1] == 1.0
    assert results[4] == 0.25
    assert isinstance(results[0], Refused)
    assert str(results[0]) == "zero has no inverse"


@pytest.mark.slow  # the next one loses its process, too, for memory
def test_a_task_that_loses_its_process_is_tried_again_and_not_for_ever(cluster: None, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("harness.engine.cluster.TRIES", 2)
    once, often = (str(tmp_path / "once"), 1), (str(tmp_path / "often"), 99)
    results = dict(map_tasks(die_until, [once, often], cpus=lambda item: 1, gpus=lambda item: 0))
    assert results[once] == 1
    assert isinstance(results[often], ray.exceptions.WorkerCrashedError)
    assert (tmp_path / "often").read_text() == "xx"


@pytest.mark.slow
def test_others_end_while_one_waits_for_its_next_try(cluster: None, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("harness.engine.cluster.FIRST_WAIT", 600.0)
    lost, fine = (str(tmp_path / "lost"), 99), (str(tmp_path / "fine"), 0)
    tasks = map_tasks(die_until, [lost, fine, fine], cpus=lambda item: 4, gpus=lambda item: 0)  # one after another
    assert [next(tasks), next(tasks)] == [(fine, 0), (fine, 1)]
    assert (tmp_path / "lost").read_text() == "x"
    tasks.close()


def test_what_was_killed_for_memory_is_tried_smaller_and_not_for_ever(cluster: None, tmp_path: Path, monkeypatch) -> None:
    """Ray's own retries of it have no end."""
    monkeypatch.setattr("harness.engine.cluster.FIRST_WAIT", 0.0)
    get, tried = ray.get, []

    def killed(done: Any) -> Any:
        tried.append(get(done))
        raise ray.exceptions.OutOfMemoryError("Task was killed due to the node running low on memory")

    monkeypatch.setattr(ray, "get", killed)
    ((item, error),) = map_tasks(invert, [1], lambda item: 1, lambda item: 0, after_out_of_memory=lambda item: 2 * item)
    assert item == 1
    assert isinstance(error, ray.exceptions.OutOfMemoryError)
    assert tried == [1, 1 / 2, 1 / 4, 1 / 8]


def test_a_teacher_is_tried_in_smaller_parts(cluster: None, tmp_path: Path, monkeypatch) -> None:
    def after_one_kill(function: Any, items: Any, cpus: Any, gpus: Any, after_out_of_memory: Any) -> Any:
        return [(after_out_of_memory(item), None) for item in items]

    monkeypatch.setattr("harness.engine.cluster.map_tasks", after_one_kill)
    plan = make_plan(tiny_study(resources={"engine": "ray"}), Path.cwd())
    (job,) = _teacher_jobs(plan, plan.tasks[0], "data", tmp_path)
    with engine_for(plan, tmp_path) as engine:
        ((smaller, _),) = engine.map_tasks(make_teacher, [job])
    assert (job.micro_batches, smaller.micro_batches) == (1, 2)


def test_a_connection_is_reused(cluster: None, tmp_path: Path) -> None:
    import ray

    with connect("192.0.2.1:1", tmp_path):  # an address that is not looked at
        assert ray.is_initialized()
    assert ray.is_initialized()


def test_trials_that_reserve_memory_do_not_exceed_the_machines(cluster: None) -> None:
    import ray

    memory = int(ray.cluster_resources()["memory"])
    assert ray_slots(TaskResources(memory_per_worker=memory // 2)) == 2
    assert ray_slots(TaskResources(memory_per_worker=memory // 3)) == 3
    with pytest.raises(ClusterError, match="GiB of memory"):
        require_slots("rte", TaskResources(memory_per_worker=2 * memory))


def test_slots(cluster: None) -> None:
    assert ray_slots(TaskResources()) == 4
    assert ray_slots(TaskResources(cpus_per_worker=0.5)) == 8
    assert ray_slots(TaskResources(workers=2)) == 2
    assert ray_slots(TaskResources(workers=3, cpus_per_worker=1)) == 1
    assert ray_slots(TaskResources(gpus_per_worker=0.5)) == 2
    assert ray_slots(TaskResources(gpus_per_worker=2)) == 0
    with pytest.raises(ClusterError, match=r"a trial of rte wants 1 worker with 1 CPU and 2 GPUs each"):
        require_slots("rte", TaskResources(gpus_per_worker=2))


@pytest.mark.skipif(Path("~/.ray/auth_token").expanduser().exists(), reason="this user has a token, which is used")
def test_a_cluster_of_our_own_has_a_token_of_its_own(cluster: None) -> None:
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_an_address_that_a_dead_cluster_left_is_answered_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    started = time.monotonic()
    with pytest.raises(OSError, match="refused"):
        _knock("auto")
    assert time.monotonic() - started < 10


def test_a_folder_without_links_has_none_to_rays_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    _link(tmp_path / "logs" / "ray", tmp_path)
    assert list((tmp_path / "logs").iterdir()) == []


def test_a_study_that_fits_nowhere_ends_before_its_data_and_teachers(cluster: None, tmp_path: Path) -> None:
    plan = make_plan(tiny_study(resources={"engine": "ray", "gpus_per_worker": 4}), Path.cwd())
    with pytest.raises(ClusterError, match=r"a trial of sst2 wants 1 worker with .* 4 GPUs .* Change `resources`"):  # noqa: SIM117
        with engine_for(plan, tmp_path):
            pytest.fail("an engine that cannot run the study")


def test_what_fits_on_nodes_that_an_autoscaler_can_add_is_let_through(cluster: None) -> None:
    wanted = TaskResources(workers=2, gpus_per_worker=2, placement="strict_spread")
    with pytest.raises(ClusterError, match="names no nodes that an autoscaler could add"):
        require_slots("rte", wanted)
    with pytest.raises(ClusterError, match=r"nor would one hold it that has grown"):
        require_slots("rte", wanted, [NodeShape(nodes=1, cpus=64, gpus=8)])
    assert require_slots("rte", wanted, [NodeShape(nodes=2, cpus=64, gpus=8)]) == 4
    assert require_slots("rte", TaskResources(), [NodeShape(nodes=1, cpus=1)]) == ray_slots(TaskResources())


def test_what_is_private_to_ray_is_used_in_the_places_that_say_why() -> None:
    found = set()
    for file in (PROJECT / "harness").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [one.name for one in node.names] if isinstance(node, ast.Import) else []
            found |= {(file.name, name) for name in names if re.match(r"ray\.(.*\.)?(_|core\.)", f"{name}.")}
    assert found == {
        ("cluster.py", "ray._private"),
        ("ray_placement_groups.py", "ray._private.state"),
        ("ray_placement_groups.py", "ray.core.generated.gcs_pb2"),
    }
