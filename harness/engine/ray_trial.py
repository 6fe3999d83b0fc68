"""A one-worker trial, in a Tune worker process that stays warm: nothing is imported between two trials."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from harness.engine.cluster import HEAD_NODE
from harness.engine.payload import pack
from harness.records import EpochRecord, TrialSpec
from harness.training.checkpoint import CheckpointError, TrialCheckpoint, existing_checkpoint
from harness.training.failures import classify, is_retried
from harness.training.hooks import StoppedEarly
from harness.training.sign_of_life import SignOfLife

if TYPE_CHECKING:
    from harness.training.trial import TrialOutcome

TrainFunction = Callable[..., "TrialOutcome"]
_stopped: set[str] = set()
"""Keys of the trials that are to end in this process. A process has one trial at a time."""


def trial_resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    bundle = {name: config[name] for name in ("CPU", "GPU", "memory") if config[name] > 0}
    return tune.PlacementGroupFactory([bundle or HEAD_NODE])


def run_trial(config: dict[str, Any], train: TrainFunction | None, cache: Path) -> None:
    """Train, and report each epoch (`epoch_report`) and then the outcome (`outcome`) or what stopped it (`error`) to Tune.

    Raises only what a retry may mend, for Tune to give up this process: the retry goes on from the checkpoint. A CUDA error is
    reported before (`device_error`).
    """
    spec = TrialSpec.model_validate_json(config["spec"])
    checkpoint = Path(config["checkpoint"])
    train = train or default_train()
    state = TrialCheckpoint(checkpoint, spec.resources.checkpoint_seconds)
    keep: dict[str, Any] = {"on_step": SignOfLife(checkpoint, ray.get_runtime_context().get_node_id())}
    if config["student_folder"]:
        keep["student_folder"] = Path(config["student_folder"])

    def on_epoch(record: EpochRecord, write: Callable[[Path], None]) -> None:
        state.after_epoch(write)
        tune.report(epoch_report(config, record.model_dump_json()))  # returns when Tune asks for more
        if is_stopped(spec.key):
            raise StoppedEarly

    lost = False
    try:
        try:
            outcome = train(spec, cache, on_epoch=on_epoch, resume_from=existing_checkpoint(checkpoint), **keep)
        except CheckpointError as error:
            tune.report({"checkpoint_damaged": str(error)})
            outcome = train(spec, cache, on_epoch=on_epoch, resume_from=None, **keep)
    except Exception as error:
        record = classify(error)
        if lost := record.kind == "device":
            tune.report({"device_error": record.model_dump_json()})
        if lost or is_retried(record):
            raise
        tune.report({"error": record.model_dump_json()})
    else:
        tune.report({"outcome": pack(outcome)})
    finally:
        if not lost:  # CUDA would raise the same error once more
            release_memory()


def default_train() -> TrainFunction:
    from harness.training.trial import train_trial  # imports torch and transformers: only where trials run

    return train_trial


def epoch_report(config: dict[str, Any], record: str) -> dict[str, Any]:
    """What Tune hears of an epoch: its record, and with early stopping the actor that `hear_stop` is to run in."""
    return {"epoch_record": record} | ({"actor": ray.get_runtime_context().current_actor} if config["may_stop"] else {})


def hear_stop(actor: Any, key: str) -> None:
    """Runs in the trial's actor, between two results of it."""
    _stopped.add(key)


def is_stopped(key: str) -> bool:
    """Whether the trial is to end after the epoch that was reported last. Asked once."""
    stopped = key in _stopped
    _stopped.discard(key)
    return stopped


def release_memory() -> None:
    """Nothing of a trial may stay in a process that goes on to the next one."""
    gc.collect()
    _leave_libraries_out()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


@cache
def _leave_libraries_out() -> None:
    """Of later collections: what the first trial has imported stays, and takes 0.3 s to look through, after every trial."""
    gc.freeze()
