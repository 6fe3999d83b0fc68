"""Trials of several workers: each is a TorchTrainer of Ray Train, launched from the trial's function of Tune.

Its processes are new ones, which takes some 14 s on two idle cores: less than a tenth of a trial of three minutes, as
`python -m tests.benchmarks several_workers` shows. What a trial goes on from is our own checkpoint
(`training/checkpoint.py`) and not one of Ray Train's: one-worker trials and the inline engine write and read the same file.

The ranks' news come through a queue, and not by `ray.train.report` and `TuneReportCallback`, for two reasons (Ray 2.60). What
is reported is lost with its group where a rank dies before Ray Train asks the next time: the trial goes on after an epoch that
its search has never heard of. And where a trial's function itself reports (its outcome, say) while the queue of that callback
holds an epoch, Tune stands still for ever: it puts both into one queue that holds one.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray import tune
from ray.train import (
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    WorkerGroupError,
)
from ray.train.torch import TorchTrainer
from ray.util.queue import Queue

from harness.engine.cluster import ray_resources, set_environment
from harness.engine.payload import Payload, pack
from harness.engine.ray_losses import NODE_LOSSES
from harness.engine.ray_trial import TrainFunction, default_train, epoch_report
from harness.records import EpochRecord, ErrorRecord, TrialSpec
from harness.training.checkpoint import FILE, CheckpointError, TrialCheckpoint, existing_checkpoint
from harness.training.failures import classify, is_out_of_memory, is_retried
from harness.training.hooks import EpochEnd
from harness.training.sign_of_life import SignOfLife


class GroupLostError(Exception):
    """Ranks, or the processes that watch over them, have gone: the trial is tried again from its last checkpoint."""


@dataclass(frozen=True)
class Failure:
    """Why a rank gave up."""

    error: ErrorRecord
    collateral: bool
    """It only noticed that another rank had gone."""


class Trainer(TorchTrainer):  # type: ignore[misc]  # ray is untyped
    def _create_default_callbacks(self) -> list[Any]:
        """Without Ray Train's watcher for orphaned placement groups, whose work `ray_orphans` does: of a cluster without a
        dashboard it asks in vain, which holds up the end of every trial by 12 s (Ray 2.60). No public setting leaves it out.
        """
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ != "PlacementGroupCleanerCallback"]


def run_distributed_trial(config: dict[str, Any], train: TrainFunction | None, cache: Path, storage: Path) -> None:
    """Have the trial trained, and report each epoch and then its end to Tune, as `run_trial` does.

    New processes go on from the checkpoint after a checkpoint that cannot be read (from the start), after a rank ran out of
    memory (in micro-batches of half the size, while there are any), and once after a CUDA error. Raises GroupLostError.
    """
    set_environment()
    spec = TrialSpec.model_validate_json(config["spec"])
    rows = math.ceil(spec.training.batch_size / spec.resources.workers)
    micro_batches, lost_device = 1, False
    while True:
        end = train_on_ranks(spec, {**config, "micro_batches": micro_batches}, train, cache, storage)
        if not isinstance(end, ErrorRecord):
            tune.report({"outcome": end})
            return
        if end.type == CheckpointError.__name__:
            Path(config["checkpoint"], FILE).unlink(missing_ok=True)
            tune.report({"checkpoint_damaged": end.message})
        elif end.kind == "out_of_memory" and micro_batches < rows:
            micro_batches = min(2 * micro_batches, rows)
            tune.report({"out_of_memory": end.message})
        elif end.kind == "device" and not lost_device:
            lost_device = True
            tune.report({"trial_retried": end.message})
        else:
            tune.report({"error": end.model_dump_json()})
            return


def train_on_ranks(
    spec: TrialSpec, config: dict[str, Any], train: TrainFunction | None, cache: Path, storage: Path
) -> Payload | ErrorRecord:
    """One run of Ray Train: the trial's outcome, or why a rank gave up by itself. Raises GroupLostError."""
    news = Queue(actor_options={"num_cpus": 0})
    failures: list[Failure] = []

    def pass_on() -> None:
        while (item := news.get()) is not None:
            if isinstance(item, Failure):
                failures.append(item)
            else:
                tune.report(item)

    def rank(config: dict[str, Any]) -> Payload | None:
        return train_rank(config, train, cache, news)

    resources = spec.resources
    trainer = Trainer(
        rank,
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=ray_resources(resources),
            placement_strategy=resources.placement.upper(),
        ),
        run_config=RunConfig(
            name=f"trial-{uuid4().hex}",  # Train goes on with a run whose name it knows
            storage_path=str(storage),
            # a node that says that it will go is not charged to the trial; all else is counted by the session, in the driver
            failure_config=FailureConfig(max_failures=0, max_preemption_failures=NODE_LOSSES),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    passing_on = threading.Thread(target=pass_on, daemon=True)
    passing_on.start()
    lost: Exception | None = None
    try:
        outcome: Payload = trainer.fit().return_value
    except (TrainingFailedError, ray.exceptions.RayError) as error:
        lost = error
    finally:
        news.put(None)
        passing_on.join()
    return outcome if lost is None else own_error(lost, failures)


def own_error(lost: Exception, failures: list[Failure]) -> ErrorRecord:
    """The first error that a rank made itself. Raises GroupLostError where there is none, or a retry may mend it."""
    ranks = lost.worker_failures.values() if isinstance(lost, WorkerGroupError) else ()
    own = next((failure.error for failure in failures if not failure.collateral), None)
    if own is None or any(isinstance(error, ray.exceptions.RayActorError) for error in ranks):
        raise GroupLostError(f"the workers of the trial were lost: {lost}")
    if is_retried(own):
        raise GroupLostError(f"{own.type}: {own.message}")
    return own


def train_rank(config: dict[str, Any], train: TrainFunction | None, cache: Path, news: Queue) -> Payload | None:
    """What every rank does. Failures, too, are news: of a rank's error Ray Train keeps the text alone."""
    import torch
    from ray.train.collective import broadcast_from_rank_zero
    from ray.train.torch import get_device

    from harness.ranks import ProcessGroup, is_broken_connection

    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    spec, checkpoint, ranks = TrialSpec.model_validate_json(config["spec"]), Path(config["checkpoint"]), ProcessGroup()
    first = ranks.rank == 0
    state = TrialCheckpoint(checkpoint, spec.resources.checkpoint_seconds)

    def on_epoch(record: EpochRecord, end: EpochEnd) -> None:
        if first:
            state.after_epoch(end)
            news.put(epoch_report(config, record, end))

    further: dict[str, Any] = {"on_step": SignOfLife(checkpoint, ray.get_runtime_context().get_node_id(), ranks.rank)}
    if config["micro_batches"] > 1:
        further["micro_batches"] = config["micro_batches"]
    if config["student_folder"]:
        further["student_folder"] = Path(config["student_folder"])
    resume_from = broadcast_from_rank_zero(existing_checkpoint(checkpoint) if first else None)  # the same for all
    try:
        outcome = (train or default_train())(spec, cache, ranks=ranks, on_epoch=on_epoch, resume_from=resume_from, **further)
    except Exception as error:
        news.put(Failure(classify(error), is_broken_connection(error) and not is_out_of_memory(error)))
        raise  # the other ranks may be waiting for this one: Train ends them
    return pack(outcome) if first else None
