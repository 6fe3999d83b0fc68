"""A one-worker trial, or several stacked, in a Tune worker process that stays warm: nothing is imported between two trials."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from functools import cache, partial
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
    from harness.training.stacked import Seat
    from harness.training.trial import TrialOutcome

TrainFunction = Callable[..., "TrialOutcome"]
_stopped: set[str] = set()
"""Keys of the trials that are to end in this process."""


def trial_resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    bundle = {name: config[name] for name in ("CPU", "GPU", "memory") if config[name] > 0}
    return tune.PlacementGroupFactory([bundle or HEAD_NODE])


def run_trials(config: dict[str, Any], train: TrainFunction | None, cache: Path) -> None:
    """Train one trial, or the stacked ones of `config["beside"]` with it, and report to Tune, each with its `key`: each epoch
    (`epoch_report`), and then the outcome (`outcome`) or what stopped it (`error`).

    Raises only what a retry may mend, for Tune to give up this process: the retries go on from the checkpoints. A CUDA error is
    reported before (`device_error`).
    """
    train = train or default_train()
    try:
        if beside := config["beside"]:
            from harness.training.stacked import run_stacked

            run_stacked([partial(_in_seat, one, train, cache) for one in (config, *beside)], stop_at_error=True)
        else:
            _run_trial(config, train, cache, _here)
    except Exception as error:
        if classify(error).kind != "device":  # else CUDA would raise the same error once more
            release_memory()
        raise
    release_memory()


def _in_seat(config: dict[str, Any], train: TrainFunction, cache: Path, seat: Seat) -> None:
    _run_trial(config, train, cache, seat.in_main_thread, ranks=seat)


def _run_trial(
    config: dict[str, Any], train: TrainFunction, cache: Path, main: Callable[[Callable[[], Any]], Any], **options: Any
) -> None:
    """`main` calls a function in the thread in which Tune takes reports."""
    spec = TrialSpec.model_validate_json(config["spec"])
    checkpoint = Path(config["checkpoint"])
    state = TrialCheckpoint(checkpoint, spec.resources.checkpoint_seconds)
    options["on_step"] = SignOfLife(checkpoint, ray.get_runtime_context().get_node_id())
    if config["student_folder"]:
        options["student_folder"] = Path(config["student_folder"])

    def report(**result: Any) -> None:
        main(partial(tune.report, {"key": spec.key, **result}))  # returns when Tune asks for more

    def on_epoch(record: EpochRecord, write: Callable[[Path], None]) -> None:
        state.after_epoch(write)
        report(**main(partial(epoch_report, config, record.model_dump_json())))
        if is_stopped(spec.key):
            raise StoppedEarly

    try:
        try:
            outcome = train(spec, cache, on_epoch=on_epoch, resume_from=existing_checkpoint(checkpoint), **options)
        except CheckpointError as error:
            report(checkpoint_damaged=str(error))
            outcome = train(spec, cache, on_epoch=on_epoch, resume_from=None, **options)
    except Exception as error:
        record = classify(error)
        if record.kind == "device":
            report(device_error=record.model_dump_json())
        if record.kind == "device" or is_retried(record):
            raise
        report(error=record.model_dump_json())
    else:
        report(outcome=pack(outcome))


def default_train() -> TrainFunction:
    from harness.training.trial import train_trial  # imports torch and transformers: only where trials run

    return train_trial


def _here(function: Callable[[], Any]) -> Any:
    return function()


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
