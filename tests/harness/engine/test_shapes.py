"""Cells of different shapes in one study, fractions of a GPU among them, on a cluster with a GPU that only Ray believes in."""

from __future__ import annotations

from collections.abc import Callable

from harness.engine.cluster import ray_slots
from tests.harness.engine.conftest import StandInRun


def test_cells_of_different_shapes_run_in_one_study(stand_in_run: Callable[..., StandInRun]) -> None:
    run = stand_in_run(
        ["plain"],
        tasks=["sst2", "rte", "qnli"],
        search={"trials": 1},
        resources={
            "cpus_per_worker": 0.5,
            "gpus_per_worker": 0.25,
            "memory_per_worker": 2**20,
            "per_task": {"rte": {"cpus_per_worker": 1, "gpus_per_worker": 0.5}, "qnli": {"workers": 2, "cpus_per_worker": 1}},
        },
    )
    assert {cell.task.name: ray_slots(cell.resources) for cell in run.plan.cells} == {"sst2": 4, "rte": 2, "qnli": 2}
    run()
    ends = {record.spec.task.name: record.error or record.status for record in run.store.records()}
    assert ends == {"sst2": "ok", "rte": "ok", "qnli": "ok"}
    given = set(zip(run.log.task, run.log.gpus, strict=True))
    assert given == {("sst2", "0"), ("rte", "0"), ("qnli", "")}
    assert set(run.log[run.log.task == "qnli"]["rank"]) == {0, 1}
    assert [event["slots"] for event in run.store.events() if event["kind"] == "slots"] == [4, 2]
