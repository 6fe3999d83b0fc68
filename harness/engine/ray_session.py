"""What Ray Tune calls back: a searcher that deals out the router's trials, and a callback that takes their ends to it."""

from __future__ import annotations

import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.search import Searcher

from harness.engine.payload import unpack
from harness.engine.ray_nodes import NodeWatch
from harness.engine.ray_orphans import OrphanSweep
from harness.engine.router import Router
from harness.records import EpochRecord, ErrorRecord
from harness.store.store import Store
from harness.watching import Watcher


class RouterSession:
    """What searcher and callback share. It stays in this process: Tune pickles both, and gets empty shells."""

    def __init__(self, router: Router, store: Store, keep_checkpoints: bool, decisions: Any = None) -> None:
        self.router = router
        self.store = store
        self.keep_checkpoints = keep_checkpoints
        self.decisions = decisions
        self.keys: dict[str, str] = {}
        """Tune's name of a running trial -> its key."""
        self.lost_devices: set[str] = set()
        """Keys of trials that have met a CUDA error."""
        self.interrupted = False
        self.error: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def run(self, fit: Callable[[], Any]) -> None:
        try:
            fit()
        except Exception as error:
            raise (self.error or error) from None if self.error else error
        if self.error is not None:
            raise self.error
        if not self.router.finished:
            raise RuntimeError("Ray Tune ended before all trials were run; see ray.log in the store's .ray folder")

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Keep an error as it is: Tune wraps what its callbacks raise into an error of its own."""
        try:
            yield
        except Exception as error:
            self.error = self.error or error
            raise


class RouterSearcher(Searcher):  # type: ignore[misc]  # ray is untyped
    """The router, as Tune wants it. Objectives do not pass through Tune: `StoreCallback` tells the router."""

    def __init__(self, session: RouterSession) -> None:
        super().__init__()
        self._session = session

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        session = self._session
        with session.guard():
            spec = session.router.next()
            if spec is None:
                return str(Searcher.FINISHED) if session.router.finished else None
            session.keys[trial_id] = spec.key
            student = session.router.student_folder(spec)
            return {
                "spec": spec.model_dump_json(),
                "checkpoint": str(session.store.path.resolve() / "running" / spec.key),
                "student_folder": None if student is None else str(student),
                "CPU": spec.resources.cpus_per_worker,
                "GPU": spec.resources.gpus_per_worker,
                "memory": spec.resources.memory_per_worker,
            }

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a study is continued from its store")


class StoreCallback(TrialProgressCallback):  # type: ignore[misc]  # ray is untyped
    """Brings what trials report to the router, which stores it. In the place of Tune's own callback that prints."""

    def __init__(self, session: RouterSession, watcher: Watcher) -> None:
        super().__init__()
        self._session = session
        self._sweep = OrphanSweep()
        self._nodes = NodeWatch(watcher)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._sweep.step()
        self._nodes.step()
        if self._session.interrupted:  # here and not in the signal handler: never in the middle of a write
            raise KeyboardInterrupt

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        session = self._session
        with session.guard():
            # popped: Tune keeps every trial's last result
            key = session.keys.get(trial.trial_id, "")
            if (record := result.pop("epoch_record", None)) is not None:
                epoch = EpochRecord.model_validate_json(record)
                stop = session.router.epoch(key, epoch)
                if session.decisions is not None:
                    ray.get(session.decisions.decide.remote(key, epoch.epoch, stop))
            for kind in ("checkpoint_damaged", "out_of_memory", "trial_retried"):
                if (said := result.pop(kind, None)) is not None:
                    session.router.happened(kind, key, said)
            if (outcome := result.pop("outcome", None)) is not None:
                self._close(trial)
                session.router.finish(*unpack(outcome))
            elif (error := result.pop("error", None)) is not None:
                key = self._close(trial)
                session.router.fail(session.router.running(key), ErrorRecord.model_validate_json(error))
            elif (error := result.pop("device_error", None)) is not None:
                self._device_error(trial, ErrorRecord.model_validate_json(error))

    def _device_error(self, trial: Any, error: ErrorRecord) -> None:
        """The trial raises it next. Whatever its retries, it has one more try, in another process; then it has failed."""
        session = self._session
        key = session.keys[trial.trial_id]
        if key not in session.lost_devices:
            session.lost_devices.add(key)
            trial.max_failures = max(trial.max_failures, trial.num_failures + 1)
        else:
            trial.max_failures = 0
            session.router.fail(session.router.running(self._close(trial)), error)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        pass

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune starts the trial again; it goes on from its checkpoint."""
        self._sweep.begin()
        if trial.trial_id not in self._session.keys:
            return  # its process was lost after its outcome had come
        with self._session.guard():
            key = self._session.keys[trial.trial_id]
            self._session.router.happened("trial_retried", key, _last_error(_error_text(trial)))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Out of retries."""
        self._sweep.begin()
        if trial.trial_id not in self._session.keys:  # its outcome had come, or it was its second CUDA error
            return
        with self._session.guard():
            key = self._close(trial)
            self._session.router.fail(self._session.router.running(key), _lost(_error_text(trial)))

    def _close(self, trial: Any) -> str:
        key = self._session.keys.pop(trial.trial_id)
        if self._session.decisions is not None:
            self._session.decisions.forget.remote(key)
        if not self._session.keep_checkpoints:
            shutil.rmtree(trial.config["checkpoint"], ignore_errors=True)
        return key


def _error_text(trial: Any) -> str:
    """What Tune wrote down of the trial's failures so far."""
    return Path(trial.error_file).read_text() if trial.error_file else ""


def _lost(text: str) -> ErrorRecord:
    """The error of a trial that lost its process as often as it may."""
    return ErrorRecord(
        kind="out_of_memory" if "OutOfMemoryError" in text else "infrastructure",
        type="LostTrial",
        message=_last_error(text),
        traceback=text,
    )


def _last_error(text: str) -> str:
    """The error's own lines of what Tune wrote down of the last failure."""
    last = text.rsplit("\nFailure # ", 1)[-1].strip().splitlines()
    named = [line for line in last if re.match(r"[\w.]+(Error|Exception)\b", line.strip()) or line.startswith("The actor ")]
    return " ".join(named[-2:]).split(" Some common causes include")[0] or "the trial's process was lost"


@contextmanager
def interruptions(session: RouterSession) -> Iterator[None]:
    """SIGINT and SIGTERM end the run between two steps of Tune. A second signal interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        if session.interrupted:
            raise KeyboardInterrupt
        session.interrupted = True

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
