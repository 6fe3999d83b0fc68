"""Trials of several workers, through Ray Train. A group of ranks is kept and trains one trial after another.

Starting a group (a controller, its helpers, a process and its imports for every rank, the process group) takes 10 to 35 s on
two cores, up to a fifth of a trial of three minutes (`python -m tests.benchmarks several_workers`: the first trial, and a form
of this engine with new ranks for every trial, commit 985dacd). So the Tune actor that supervises a group keeps it, and hands
it the next trial of the same shape. The group is given up when a trial fails in it, and the next trial gets a new one.

Tune stops no trial here: it would have to interrupt ranks in the middle of a step (a TorchTrainer in a reused Tune actor that
is stopped early hangs the whole sweep, as measured with Ray 2.60). With early stopping the ranks wait after each epoch for what
the scheduler says of it (`ray_scheduler`).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray import tune

from harness.engine.cluster import ray_resources, set_environment
from harness.engine.payload import Payload, pack
from harness.engine.ray_mailbox import ORDER, News, Order, start_mailbox
from harness.engine.ray_trial import TrainFunction, default_train, epoch_report, is_stopped, release_memory
from harness.records import EpochRecord, ErrorRecord, TrialSpec
from harness.study.resources import TaskResources
from harness.training.checkpoint import FILE, CheckpointError, TrialCheckpoint, existing_checkpoint
from harness.training.failures import classify, is_out_of_memory, is_retried
from harness.training.hooks import StoppedEarly
from harness.training.sign_of_life import SignOfLife

_CLOSING_SECONDS = 20


class GroupLostError(Exception):
    """Ranks, or the processes that watch over them, have gone: the trial is tried again from its last checkpoint."""


@dataclass(frozen=True)
class _Failure:
    """Why a rank gave up."""

    error: ErrorRecord
    collateral: bool
    """It only noticed that another rank had gone."""


class RankGroup:
    """A TorchTrainer whose workers wait for trials. Every rank trains every trial."""

    def __init__(self, resources: TaskResources, train: TrainFunction | None, cache: Path, storage: Path) -> None:
        self._mailbox = start_mailbox()
        self._number = 0
        self._thread = threading.Thread(target=self._fit, args=(resources, train, cache, storage), daemon=True)
        self._failures: dict[int, Exception] = {}
        """Rank -> exception, once the group is closed."""
        self.error: Exception | None = None
        self._thread.start()

    def start(self, config: dict[str, Any], micro_batches: int) -> None:
        resume = existing_checkpoint(Path(config["checkpoint"])) is not None  # asked once, for all ranks
        self._next(Order(config, resume, micro_batches))

    def answer(self, epoch: int, stop: bool) -> None:
        """Whether the ranks, which wait for it, are to stop after an epoch."""
        self._mailbox.tell.remote(self._number, epoch, stop)

    def read(self) -> News:
        """The next news of the current trial. Blocks."""
        while True:
            news: News = ray.get(self._mailbox.read.remote())
            if news.kind == "closed":
                self._thread.join()
                return news
            if news.number == self._number:
                return news

    def close(self) -> None:
        """Let the ranks end. Their resources are free afterwards."""
        if self._thread.is_alive():
            self._next(None)
            self._thread.join(_CLOSING_SECONDS)
        ray.kill(self._mailbox)

    def _next(self, order: Order | None) -> None:
        self._number += 1
        ray.get(self._mailbox.tell.remote(self._number, ORDER, order))

    @property
    def lost_a_process(self) -> bool:
        return any(isinstance(error, ray.exceptions.RayActorError) for error in self._failures.values())

    def _fit(self, resources: TaskResources, train: TrainFunction | None, cache: Path, storage: Path) -> None:
        from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, WorkerGroupError

        from harness.engine.ray_trainer import Trainer

        mailbox = self._mailbox

        def serve(config: dict[str, Any]) -> None:
            serve_trials(mailbox, train, cache)

        per_worker = ray_resources(resources)
        trainer = Trainer(
            serve,
            train_loop_config={},
            scaling_config=ScalingConfig(
                num_workers=resources.workers,
                use_gpu=resources.gpus_per_worker > 0,
                resources_per_worker=per_worker,
                placement_strategy=resources.placement.upper(),
            ),
            run_config=RunConfig(
                name=f"ranks-{uuid4().hex}",  # Train resumes a run whose name it knows; trials resume by their own checkpoints
                storage_path=str(storage),
                failure_config=FailureConfig(max_failures=0),  # Tune counts retries, for each trial on its own
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )
        try:
            trainer.fit()
        except WorkerGroupError as error:
            self._failures, self.error = error.worker_failures, error
        except Exception as error:
            self.error = error
        finally:
            ray.get(mailbox.post.remote(News("closed")))


def serve_trials(mailbox: Any, train: TrainFunction | None, cache: Path) -> None:
    """What every rank does: the mailbox's trials, until it says that no more will come."""
    import torch
    from ray.train.torch import get_device

    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    for number in count(1):
        order: Order | None = ray.get(mailbox.told.remote(number, ORDER))
        if order is None:
            return
        _serve(order, number, mailbox, train or default_train(), cache)
        release_memory()


def _serve(order: Order, number: int, mailbox: Any, train: TrainFunction, cache: Path) -> None:
    from harness.ranks import ProcessGroup, is_broken_connection

    config, ranks = order.config, ProcessGroup()
    spec, checkpoint = TrialSpec.model_validate_json(config["spec"]), Path(config["checkpoint"])
    state = TrialCheckpoint(checkpoint, spec.resources.checkpoint_seconds)

    def tell(kind: Any, content: Any) -> None:
        ray.get(mailbox.post.remote(News(kind, number, content)))

    def on_epoch(record: EpochRecord, write: Callable[[Path], None]) -> None:
        if ranks.rank == 0:
            state.after_epoch(write)
            tell("epoch", (record.epoch, record.model_dump_json()))
        if config["may_stop"] and ray.get(mailbox.told.remote(number, record.epoch)):
            raise StoppedEarly

    further: dict[str, Any] = {"on_step": SignOfLife(checkpoint, ray.get_runtime_context().get_node_id(), ranks.rank)}
    if order.micro_batches > 1:
        further["micro_batches"] = order.micro_batches
    if config["student_folder"] is not None:
        further["student_folder"] = Path(config["student_folder"])
    resume_from = checkpoint if order.resume else None
    try:
        outcome = train(spec, cache, ranks=ranks, on_epoch=on_epoch, resume_from=resume_from, **further)
    except Exception as error:
        tell("failed", _Failure(classify(error), is_broken_connection(error) and not is_out_of_memory(error)))
        raise  # the other ranks may be waiting for this one: Train ends them
    tell("finished", pack(outcome) if ranks.rank == 0 else None)


class Supervisor:
    """Has one trial after another trained by a group of ranks."""

    def __init__(self, train: TrainFunction | None, cache: Path, storage: Path) -> None:
        self._train, self._cache, self._storage = train, cache, storage
        self._group: RankGroup | None = None
        self._shape: TaskResources | None = None
        self._config: dict[str, Any]
        self._spec: TrialSpec
        self._micro_batches = 1
        self._failure: _Failure | None = None
        self._outcome: Payload | None = None
        self._asked: int | None = None
        """Epoch after which the ranks wait for an answer."""
        self._unfinished = 0
        """Ranks that are still at the trial."""
        self._lost_device = ""
        """Key of the trial that met a CUDA error."""

    def start(self, config: dict[str, Any], micro_batches: int = 1) -> None:
        """`config`: as Tune has it."""
        self._config, self._micro_batches = config, micro_batches
        self._spec = spec = TrialSpec.model_validate_json(config["spec"])
        if self._group is not None and spec.resources != self._shape:
            self.close()
        if self._group is None:
            self._group = RankGroup(spec.resources, self._train, self._cache, self._storage)
            self._shape = spec.resources
        self._failure = self._outcome = self._asked = None
        self._unfinished = spec.resources.workers
        self._group.start(config, micro_batches)

    def wait(self) -> dict[str, Any]:
        """An epoch's metrics, `checkpoint_damaged`, `out_of_memory`, `trial_retried`, or the trial's end: `outcome` or `error`,
        and done. After an epoch: called when the scheduler has decided on it. Raises GroupLostError.
        """
        while True:
            assert self._group is not None
            if self._asked is not None:
                self._group.answer(self._asked, is_stopped(self._spec.key))
                self._asked = None
            news = self._group.read()
            if news.kind == "epoch":
                epoch, record = news.content
                self._asked = epoch if self._config["may_stop"] else None
                return epoch_report(self._config, record)
            if news.kind == "closed":
                error = self._own_error()
                if error.type == CheckpointError.__name__:
                    Path(self._config["checkpoint"], FILE).unlink(missing_ok=True)
                    self.start(self._config, self._micro_batches)
                    return {"checkpoint_damaged": error.message}
                if self._in_smaller_parts(error):
                    return {"out_of_memory": error.message}
                if error.kind == "device" and self._lost_device != self._spec.key:  # new processes, once
                    self._lost_device = self._spec.key
                    self.start(self._config, self._micro_batches)
                    return {"trial_retried": error.message}
                return {"error": error.model_dump_json(), "done": True}
            if news.kind == "finished":
                self._outcome = news.content or self._outcome
                self._unfinished -= 1
                if self._unfinished == 0:  # a rank that lags behind must not miss the next trial
                    return {"outcome": self._outcome, "done": True}
            elif self._failure is None or self._failure.collateral:
                self._failure = news.content

    def _in_smaller_parts(self, error: ErrorRecord) -> bool:
        """After a rank ran out of memory: go on from the last epoch with micro-batches of half the size, if there are any."""
        rows = math.ceil(self._spec.training.batch_size / self._spec.resources.workers)
        if error.kind != "out_of_memory" or self._micro_batches >= rows:
            return False
        self.start(self._config, min(2 * self._micro_batches, rows))
        return True

    def close(self) -> None:
        if self._group is not None:
            self._group.close()
            self._group = None

    def _own_error(self) -> ErrorRecord:
        """Why the trial ended its group. Raises GroupLostError where a retry may mend it."""
        group, failure = self._group, self._failure
        assert group is not None
        self.close()
        if failure is None or failure.collateral or group.lost_a_process:
            raise GroupLostError(f"the workers of the trial were lost: {group.error}")
        if is_retried(failure.error):
            raise GroupLostError(f"{failure.error.type}: {failure.error.message}")
        return failure.error


class DistributedTrial(tune.Trainable):  # type: ignore[misc]  # ray is untyped
    """The Tune actor around a supervisor. `reuse_actors=True` keeps it, and with it the group of ranks."""

    def setup(self, config: dict[str, Any], train: TrainFunction | None, cache: Path, storage: Path) -> None:
        set_environment()
        self.supervisor = Supervisor(train, cache, storage)
        self.started = False

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.config = new_config
        self.started = False
        return True

    def step(self) -> dict[str, Any]:
        if not self.started:
            self.supervisor.start(self.config)
            self.started = True
        return {"key": self.config["key"], **self.supervisor.wait()}

    def cleanup(self) -> None:
        self.supervisor.close()
