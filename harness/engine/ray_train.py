"""Trials of several workers, through Ray Train. A group of ranks is kept and trains one trial after another.

Starting a group (a controller, its helpers, a process and its imports for every rank, the process group) takes 10 to 35 s on
two cores, up to a fifth of a trial of three minutes (`python -m tests.benchmarks several_workers`: the first trial, and a form
of this engine with new ranks for every trial, commit 985dacd). So the Tune actor that supervises a group keeps it, and hands
it the next trial of the same shape. The group is given up when a trial fails in it, and the next trial gets a new one.

Tune stops no trial here: it would have to interrupt ranks in the middle of a step (a TorchTrainer in a reused Tune actor that
is stopped early hangs the whole sweep, as measured with Ray 2.60). With early stopping the ranks ask after each epoch.
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

from harness.engine.cluster import ray_resources, set_environment
from harness.engine.payload import Payload, pack
from harness.engine.ray_decisions import go_on_or_stop
from harness.engine.ray_mailbox import News, Order, start_mailbox
from harness.engine.ray_trial import TrainFunction, default_train, epoch_metrics, release_memory
from harness.records import EpochRecord, ErrorRecord, TrialSpec
from harness.study.resources import TaskResources
from harness.training.checkpoint import FILE, CheckpointError, TrialCheckpoint, existing_checkpoint
from harness.training.failures import classify, is_out_of_memory, is_retried
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

    def __init__(
        self, resources: TaskResources, train: TrainFunction | None, cache: Path, storage: Path, decisions: Any = None
    ) -> None:
        self._mailbox = start_mailbox()
        self._number = 0
        self._thread = threading.Thread(target=self._fit, args=(resources, train, cache, storage, decisions), daemon=True)
        self._failures: dict[int, Exception] = {}
        """Rank -> exception, once the group is closed."""
        self.error: Exception | None = None
        self._thread.start()

    def start(self, spec: TrialSpec, checkpoint: Path, micro_batches: int = 1, student_folder: str | None = None) -> None:
        self._number += 1
        resume = existing_checkpoint(checkpoint) is not None  # asked once, for all ranks
        content = spec.model_dump_json()
        order = Order(self._number, content, str(checkpoint), resume, micro_batches, student_folder)
        ray.get(self._mailbox.give.remote(order))

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
            ray.get(self._mailbox.give.remote(Order(self._number + 1, None)))
            self._thread.join(_CLOSING_SECONDS)
        ray.kill(self._mailbox)

    @property
    def lost_a_process(self) -> bool:
        return any(isinstance(error, ray.exceptions.RayActorError) for error in self._failures.values())

    def _fit(self, resources: TaskResources, train: TrainFunction | None, cache: Path, storage: Path, decisions: Any) -> None:
        from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, WorkerGroupError

        from harness.engine.ray_trainer import Trainer

        mailbox = self._mailbox

        def serve(config: dict[str, Any]) -> None:
            serve_trials(mailbox, train, cache, decisions)

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


def serve_trials(mailbox: Any, train: TrainFunction | None, cache: Path, decisions: Any = None) -> None:
    """What every rank does: the mailbox's trials, until it says that no more will come."""
    import torch
    import torch.distributed as dist
    from ray.train.torch import get_device

    from harness.ranks import ProcessGroup, is_broken_connection

    train = train or default_train()
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    number = 0
    while True:
        order: Order = ray.get(mailbox.order_after.remote(number))
        if order.spec is None:
            return
        number = order.number
        spec = TrialSpec.model_validate_json(order.spec)
        ranks = ProcessGroup()
        state = TrialCheckpoint(Path(order.checkpoint), spec.resources.checkpoint_seconds)

        def tell(kind: Any, content: Any, number: int = number) -> None:
            ray.get(mailbox.post.remote(News(kind, number, content)))

        def on_epoch(
            record: EpochRecord,
            write: Any,
            spec: TrialSpec = spec,
            state: TrialCheckpoint = state,
            tell: Any = tell,
        ) -> None:
            if dist.get_rank() == 0:
                state.after_epoch(write)
                tell("epoch", epoch_metrics(spec, record) | {"epoch_record": record.model_dump_json()})
            go_on_or_stop(decisions, spec.key, record.epoch)

        alive = SignOfLife(Path(order.checkpoint), ray.get_runtime_context().get_node_id(), ranks.rank)
        further: dict[str, Any] = {"on_step": alive}
        if order.micro_batches > 1:
            further["micro_batches"] = order.micro_batches
        if order.student_folder is not None:
            further["student_folder"] = Path(order.student_folder)
        resume_from = Path(order.checkpoint) if order.resume else None
        try:
            outcome = train(spec, cache, ranks=ranks, on_epoch=on_epoch, resume_from=resume_from, **further)
        except Exception as error:
            tell("failed", _Failure(classify(error), is_broken_connection(error) and not is_out_of_memory(error)))
            raise  # the other ranks may be waiting for this one: Train ends them
        tell("finished", pack(outcome) if ranks.rank == 0 else None)
        del outcome, ranks
        release_memory()


class Supervisor:
    """Has one trial after another trained by a group of ranks."""

    def __init__(self, train: TrainFunction | None, cache: Path, storage: Path, decisions: Any = None) -> None:
        self._train, self._cache, self._storage, self._decisions = train, cache, storage, decisions
        self._group: RankGroup | None = None
        self._shape: TaskResources | None = None
        self._spec: TrialSpec
        self._micro_batches = 1
        self._checkpoint = Path()
        self._student_folder: str | None = None
        self._failure: _Failure | None = None
        self._outcome: Payload | None = None
        self._unfinished = 0
        """Ranks that are still at the trial."""
        self._lost_device = ""
        """Key of the trial that met a CUDA error."""

    def start(self, spec: TrialSpec, checkpoint: Path, micro_batches: int = 1, student_folder: str | None = None) -> None:
        if self._group is not None and spec.resources != self._shape:
            self.close()
        if self._group is None:
            self._group = RankGroup(spec.resources, self._train, self._cache, self._storage, self._decisions)
            self._shape = spec.resources
        self._spec, self._checkpoint, self._micro_batches = spec, checkpoint, micro_batches
        self._student_folder = student_folder
        self._failure = None
        self._outcome = None
        self._unfinished = spec.resources.workers
        self._group.start(spec, checkpoint, micro_batches, student_folder)

    def wait(self) -> dict[str, Any]:
        """An epoch's metrics, `checkpoint_damaged`, `out_of_memory`, `trial_retried`, or the trial's end: `outcome` or `error`,
        and done.

        Raises GroupLostError.
        """
        while True:
            assert self._group is not None
            news = self._group.read()
            if news.kind == "epoch":
                return dict(news.content)
            if news.kind == "closed":
                error = self._own_error()
                if error.type == CheckpointError.__name__:
                    (self._checkpoint / FILE).unlink(missing_ok=True)
                    self.start(self._spec, self._checkpoint, self._micro_batches, self._student_folder)
                    return {"checkpoint_damaged": error.message}
                if self._in_smaller_parts(error):
                    return {"out_of_memory": error.message}
                if error.kind == "device" and self._lost_device != self._spec.key:  # new processes, once
                    self._lost_device = self._spec.key
                    self.start(self._spec, self._checkpoint, self._micro_batches, self._student_folder)
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
        self.start(self._spec, self._checkpoint, min(2 * self._micro_batches, rows), self._student_folder)
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

    def setup(
        self, config: dict[str, Any], train: TrainFunction | None, cache: Path, storage: Path, decisions: Any = None
    ) -> None:
        set_environment()
        self.supervisor = Supervisor(train, cache, storage, decisions)
        self.started = False

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.config = new_config
        self.started = False
        return True

    def step(self) -> dict[str, Any]:
        if not self.started:
            spec, checkpoint = TrialSpec.model_validate_json(self.config["spec"]), Path(self.config["checkpoint"])
            self.supervisor.start(spec, checkpoint, student_folder=self.config["student_folder"])
            self.started = True
        return self.supervisor.wait()

    def cleanup(self) -> None:
        self.supervisor.close()
