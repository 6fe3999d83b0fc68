"""What Ray Tune calls back: a searcher that deals out the router's trials, and a callback that takes their ends to it."""

from __future__ import annotations

import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.search import Searcher

from harness.engine.payload import unpack
from harness.engine.ray_losses import Losses
from harness.engine.ray_nodes import NodeWatch
from harness.engine.ray_placement_groups import OrphanSweep
from harness.engine.ray_stalls import StallWatch
from harness.engine.router import Router
from harness.records import ErrorRecord, TrialSpec
from harness.store.store import Store
from harness.training.sign_of_life import forget, last_sign, processes
from harness.watching import Watcher

_NEWS_SECONDS = 20.0
"""Before a trial on several nodes fails for good: Ray may be late to say that one of them is gone."""


class RouterSession:
    """What searcher and callback share. It stays in this process: Tune pickles both, and gets empty shells.

    Tune tries nothing again: a trial that was lost goes back to the router, which deals it out as a new trial of Tune's.
    """

    def __init__(
        self, router: Router, store: Store, keep_checkpoints: bool, retries: int = 0, stacked: int = 1, at_once: int = 1
    ) -> None:
        self.router = router
        self.stacked = stacked
        self.at_once = at_once
        """At most so many trials."""
        self.store = store
        self.keep_checkpoints = keep_checkpoints
        self.keys: dict[str, list[str]] = {}
        """Tune's name of what runs in a process -> the keys of its trials, of which several may be stacked."""
        self.started: set[str] = set()
        """Tune's names of those that have a process."""
        self.device_errors: dict[str, ErrorRecord] = {}
        """Key -> CUDA error of a trial that is about to give up its process."""
        self.losses = Losses(retries)
        self._lost_on: dict[str, set[str]] = {}
        """Key of a trial that was charged with a loss -> nodes that it ran on, for news that comes late."""
        self.sweep = OrphanSweep()
        self.interrupted = False
        self.error: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def run(self, fit: Callable[[], Any]) -> None:
        """`fit` runs a Tuner, a new one each time. One that Ray's own errors end is followed by another: it ends whole where a
        process is killed for memory before it is an actor (Ray 2.60: `OutOfMemoryError`, `WorkerCrashedError`).
        """
        while True:
            try:
                fit()
            except Exception as error:
                if self.error is not None:
                    raise self.error from None
                if (cause := _of_ray(error)) is None or not self.keys:
                    raise
                self._lost_tuner(cause)
                continue
            if self.error is not None:
                raise self.error
            if not self.router.finished:
                raise RuntimeError("Ray Tune ended before all trials were run; see ray.log in the store's .ray folder")
            return

    def key_of(self, trial: Any, result: Mapping[str, Any]) -> str | None:
        """Of the running trial that a result is of; None where none is running any more."""
        key = result.get("key")
        return key if key in self.keys.get(trial.trial_id, ()) else None

    def next_together(self) -> list[TrialSpec]:
        """Trials for a process to run now, stacked if there are several."""
        running = sum(len(keys) for keys in self.keys.values())
        return self.router.next_together(min(self.stacked, self.at_once - running))

    def lost(self, key: str, text: str) -> None:
        """A running trial has no process any more: it is tried again from its checkpoint, or has failed for good."""
        spec = self.router.running(key)
        error = self.device_errors.pop(key, None) or _lost(text)
        nodes = {node for node, _ in processes(self.checkpoint(key))}
        dead = dead_of(nodes, _NEWS_SECONDS if len(nodes) > 1 and self.losses.is_last(key) else 0)
        forget(self.checkpoint(key))
        node = bool(dead) or "its node has died" in error.traceback  # Ray's words for a trial that had not begun yet
        if not node:
            self._lost_on[key] = nodes
        if (seconds := self.losses.wait(key, error, node)) is None:
            self.ended(key)
            self.router.fail(spec, error)
        else:
            self.router.happened("trial_retried", key, error.message)
            self.router.put_back(key, seconds)

    def lost_together(self, keys: list[str], text: str) -> None:
        """A process is gone. Of stacked trials it is not known whose doing that was: each is tried again, in a process of its
        own (`Router.next_together`), and none is charged with it.
        """
        if len(keys) == 1:
            self.lost(keys[0], text)
            return
        for key in keys:
            self.device_errors.pop(key, None)
            forget(self.checkpoint(key))
        self._try_again(keys, _last_error(text))

    def _try_again(self, keys: list[str], why: str) -> None:
        for key in keys:
            self.router.happened("trial_retried", key, why)
            self.router.put_back(key, 0)

    def lost_nodes(self, nodes: set[str]) -> None:
        """Ranks notice at once that another has gone; that its node has, Ray may say only seconds later."""
        for key in [key for key, ran_on in self._lost_on.items() if nodes & ran_on]:
            self.losses.was_a_node(key)
            del self._lost_on[key]

    def ended(self, key: str) -> None:
        """Nothing of a trial's state is needed any more."""
        forget(self.checkpoint(key))
        if not self.keep_checkpoints:
            shutil.rmtree(self.checkpoint(key), ignore_errors=True)

    def checkpoint(self, key: str) -> Path:
        return self.store.path.resolve() / "running" / key

    def _lost_tuner(self, cause: BaseException) -> None:
        """All its trials go back. Those that had not begun yet are charged with it; where all had, all are."""
        self.sweep.begin()
        groups = list(self.keys.values())
        starting = [keys for keys in groups if all(last_sign(self.checkpoint(key)) is None for key in keys)] or groups
        text = f"{type(cause).__name__}: {cause}"
        self.keys.clear()
        self.started.clear()
        for keys in groups:
            if keys in starting:
                self.lost_together(keys, text)
            else:
                self._try_again(keys, text)

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
            specs = session.next_together()
            if not specs:
                return str(Searcher.FINISHED) if session.router.finished else None
            session.keys[trial_id] = [spec.key for spec in specs]
            first, *beside = [self._config(spec) for spec in specs]
            return {**first, "beside": beside, **wanted_by(specs[0])}

    def _config(self, spec: TrialSpec) -> dict[str, Any]:
        router = self._session.router
        student = router.student_folder(spec)
        return {
            "key": spec.key,
            "spec": spec.model_dump_json(),
            "checkpoint": str(self._session.checkpoint(spec.key)),
            "student_folder": None if student is None else str(student),
            "may_stop": router.may_stop(spec),
        }

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a study is continued from its store")


class StoreCallback(TrialProgressCallback):  # type: ignore[misc]  # ray is untyped
    """Brings what trials report to the router, which stores it. In the place of Tune's own callback that prints."""

    def __init__(self, session: RouterSession, watcher: Watcher, stalls: StallWatch) -> None:
        super().__init__()
        self._session = session
        self._nodes = NodeWatch(watcher)
        self._stalls = stalls

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        session = self._session
        session.sweep.step()
        session.lost_nodes(self._nodes.step())
        running = [key for name, keys in session.keys.items() if name in session.started for key in keys]
        waiting = [keys[0] for name, keys in session.keys.items() if name not in session.started]
        self._stalls.step(
            {key: (session.checkpoint(key), session.router.running(key).cell_id) for key in running},
            (wanted_by(session.router.running(key)) for key in waiting),
        )
        if self._session.interrupted:  # here and not in the signal handler: never in the middle of a write
            raise KeyboardInterrupt

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._session.started.add(trial.trial_id)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        session = self._session
        for name in ("epoch_record", "actor"):  # for the scheduler; popped: Tune keeps every trial's last result
            result.pop(name, None)
        if (key := session.key_of(trial, result)) is None:
            return  # its outcome had come, and it is over
        with session.guard():
            for kind in ("checkpoint_damaged", "out_of_memory", "trial_retried"):
                if (said := result.pop(kind, None)) is not None:
                    session.router.happened(kind, key, said)
            if (outcome := result.pop("outcome", None)) is not None:
                self._close(trial, key)
                session.router.finish(*unpack(outcome))
            elif (error := result.pop("error", None)) is not None:
                self._close(trial, key)
                session.router.fail(session.router.running(key), ErrorRecord.model_validate_json(error))
            elif (error := result.pop("device_error", None)) is not None:  # the trial raises it next
                session.device_errors[key] = ErrorRecord.model_validate_json(error)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._lost(trial, "it ended without an outcome")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its process is gone, or it raised what a retry may mend: so have all that were stacked in it."""
        self._session.sweep.begin()
        self._lost(trial, _error_text(trial))

    def _lost(self, trial: Any, text: str) -> None:
        session = self._session
        if trial.trial_id not in session.keys:  # its outcome had come
            return
        with session.guard():
            session.started.discard(trial.trial_id)
            session.lost_together(session.keys.pop(trial.trial_id), text)

    def _close(self, trial: Any, key: str) -> None:
        keys = self._session.keys[trial.trial_id]
        keys.remove(key)
        if not keys:
            del self._session.keys[trial.trial_id]
            self._session.started.discard(trial.trial_id)
        self._session.ended(key)


def dead_of(nodes: set[str], seconds: float) -> set[str]:
    """Those of `nodes` that Ray knows to be gone, or learns to be gone within so many seconds."""
    until = time.monotonic() + seconds
    while nodes:
        dead = nodes & {node["NodeID"] for node in ray.nodes() if not node["Alive"]}
        if dead or time.monotonic() >= until:
            return dead
        time.sleep(1)
    return set()


def wanted_by(spec: TrialSpec) -> dict[str, float]:
    """What of a node each worker of a trial takes, by Ray's names."""
    wanted = spec.resources
    return {"CPU": wanted.cpus_per_worker, "GPU": wanted.gpus_per_worker, "memory": wanted.memory_per_worker}


def _of_ray(error: BaseException | None) -> BaseException | None:
    """The error of Ray's core that is behind another one."""
    while error is not None and not isinstance(error, ray.exceptions.RayError):
        error = error.__cause__ or error.__context__
    return error


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
    said = " ".join(named[-2:]).split(" Some common causes include")[0]
    return said or next(iter(last), "the trial's process was lost")


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
