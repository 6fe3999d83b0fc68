"""Where trials run: `inline` in this process, `ray` on a cluster. Only the `ray` side imports Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # Ray's helper processes import this package: it must stay light
    from harness.plan.plan import Plan


@dataclass(frozen=True)
class Engine:
    run_plan: Callable[..., None]
    """(plan, prepared, store, console, cache) -> None."""
    map_tasks: Any
    """`prepare.MapFunction`, and of `memory_probe.ProbeMap`."""


@contextmanager
def engine_for(
    plan: Plan, logs: Path, address: str | None = None, shared: Mapping[str, Path] | None = None
) -> Iterator[Engine]:
    """The engine that the study names, ready to run; what it started is shut down at the end.

    `address`: a running Ray cluster. `shared`: name -> absolute folder that all its nodes must see. Raises ClusterError, also
    where a trial of some task, and so a teacher of it, fits nowhere: Ray itself would wait for room without a word.
    """
    if plan.study.resources.engine == "inline":
        from harness.engine import inline
        from harness.teachers.prepare import serial_map

        yield Engine(inline.run_plan, serial_map)
        return
    from harness.engine import cluster

    def smaller(job: Any) -> Any:
        from harness.teachers.fine_tuning import TeacherJob, in_smaller_parts

        return in_smaller_parts(job) if isinstance(job, TeacherJob) else job

    with cluster.connect(address, logs):
        from harness.engine import ray_tune  # only now: what it sets must be set before Ray is imported

        if shared:
            from harness.engine.ray_paths import require_shared

            require_shared(shared)
        for cell in plan.cells:
            cluster.require_slots(cell.task.name, cell.resources, plan.study.resources.cluster_may_grow_to)
        yield Engine(
            ray_tune.run_plan,
            lambda function, items: cluster.map_tasks(function, items, lambda job: job.cpus, lambda job: job.gpus, smaller),
        )
