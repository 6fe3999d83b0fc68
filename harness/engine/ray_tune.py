"""The Ray engine: all cells of a plan through Ray Tune, their searches by our router, several workers through Ray Train.

There is one Tuner for the one-worker trials of all cells, and after it one for each shape of several workers. They cannot share
a Tuner: Ray Train takes its workers' resources past Tune's accounting, so Tune would start one-worker trials where the ranks of
others are waiting for room. They run one after the other because concurrent Tuners in a process mix up their state.

Ray's own state is disposable. Only this process writes the store; a run that is started again deals out the same trials and
answers those that the store holds.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from ray import tune

from harness.engine.cluster import HEAD_NODE, connect, ray_slots, require_slots
from harness.engine.ray_placement_groups import settled_placement_groups
from harness.engine.ray_scheduler import RouterScheduler
from harness.engine.ray_session import RouterSearcher, RouterSession, StoreCallback, interruptions
from harness.engine.ray_stalls import StallWatch
from harness.engine.ray_train import DistributedTrial
from harness.engine.ray_trial import TrainFunction, run_trials, trial_resources
from harness.engine.router import Router
from harness.plan.plan import Cell, Plan
from harness.plan.prepared import PreparedTask
from harness.store.store import Store
from harness.study.resources import TaskResources
from harness.watching import Watcher, watching
from harness.watching.console import Console


def run_plan(
    plan: Plan,
    prepared: Mapping[str, PreparedTask],
    store: Store,
    console: Console,
    cache: Path,
    address: str | None = None,
    train: TrainFunction | None = None,
) -> None:
    """Run every trial of the plan that the store does not hold as finished. `train` None: `harness.training.trial.train_trial`.

    Raises ClusterError before the first trial where one fits nowhere; StoreError; and KeyboardInterrupt on SIGINT and SIGTERM,
    with everything stored that had finished by then.
    """
    shutil.rmtree(store.path / ".ray", ignore_errors=True)  # of a run that was killed
    with connect(address, store.path / "logs"):
        for cell in plan.cells:
            require_slots(cell.task.name, cell.resources, plan.study.resources.cluster_may_grow_to)
        with watching(plan, store, console.note) as watcher:
            for cells in _by_tuner(plan):
                _run_cells(plan, cells, prepared, store, console, cache.resolve(), train, watcher)
    if not plan.study.keep_checkpoints:
        shutil.rmtree(store.path / "running", ignore_errors=True)
    shutil.rmtree(store.path / ".ray", ignore_errors=True)


def _by_tuner(plan: Plan) -> list[list[Cell]]:
    """Cells that share a Tuner: first all whose trials run in a Tune process, then each shape of several workers."""
    groups: dict[TaskResources | None, list[Cell]] = {None: []}
    for cell in plan.cells:
        resources = _shape(cell)
        groups.setdefault(resources if _is_distributed(plan, resources) else None, []).append(cell)
    return [cells for cells in groups.values() if cells]


def _shape(cell: Cell) -> TaskResources:
    return TaskResources(**cell.resources.model_dump(include=set(TaskResources.model_fields)))


def _is_distributed(plan: Plan, resources: TaskResources) -> bool:
    return resources.workers > 1 or plan.study.resources.trainer == "ray_train"


def _run_cells(
    plan: Plan,
    cells: Sequence[Cell],
    prepared: Mapping[str, PreparedTask],
    store: Store,
    console: Console,
    cache: Path,
    train: TrainFunction | None,
    watcher: Watcher,
) -> None:
    resources = plan.study.resources
    shapes = {_shape(cell) for cell in cells}
    processes = max(ray_slots(shape, resources.cluster_may_grow_to) for shape in shapes)
    if resources.concurrent_trials is not None:
        processes = min(processes, resources.concurrent_trials)
    searched = len(cells) * plan.study.search.parallel
    slots = min(processes * resources.stacked, max(processes, searched))
    if resources.concurrent_trials is not None:
        slots = min(slots, resources.concurrent_trials)
    stacked = math.ceil(slots / processes)
    if searched < processes:
        console.note(
            f"{processes} trials could run at once, and {len(cells)} cells with search.parallel {plan.study.search.parallel} "
            f"have {searched}"
        )
    storage = store.path.resolve() / ".ray"
    watcher.happened("slots", slots=slots, cells=len(cells))
    router = Router(plan, cells, prepared, store, console, watcher)
    session = RouterSession(router, store, plan.study.keep_checkpoints, resources.retries, stacked, at_once=slots)
    stalls = StallWatch(resources.stall_minutes, watcher, console)
    if _is_distributed(plan, _shape(cells[0])):
        trainable = tune.with_resources(
            tune.with_parameters(DistributedTrial, train=train, cache=cache, storage=storage),
            tune.PlacementGroupFactory([HEAD_NODE]),  # a supervisor does no work, and beside the head it outlives other nodes
        )
    else:

        def one_worker_trial(config: dict[str, Any]) -> None:
            run_trials(config, train, cache)

        trainable = tune.with_resources(one_worker_trial, trial_resources)

    def fit() -> None:
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=RouterSearcher(session),
                scheduler=RouterScheduler(session),
                num_samples=-1,
                max_concurrent_trials=processes,
                reuse_actors=True,
                trial_name_creator=lambda trial: trial.trial_id,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name=f"trials-{uuid4().hex}",
                storage_path=str(storage),
                verbose=0,
                callbacks=[StoreCallback(session, watcher, stalls)],
                failure_config=tune.FailureConfig(max_failures=0),  # the session counts, and deals them out again
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()

    with interruptions(session), settled_placement_groups():
        session.run(fit)
