"""Runs in Weights & Biases, MLflow and trackio (`watch:` in a study): one a trial, grouped by cell, a step for each epoch.

Where they go is each library's own setting (WANDB_MODE, MLFLOW_TRACKING_URI, TRACKIO_DIR, ...). No trial waits for a tracker:
it is written from a thread of its own, and one that fails is given up with a word.
"""

from __future__ import annotations

import contextvars
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

from harness.records import EpochRecord, TrialRecord, TrialSpec
from harness.watching import Watcher
from harness.watching.tensorboard import scalars

LAST_WORDS_SECONDS = 60.0
"""So long the end of a study waits for what is still to be written."""


class Service(Protocol):
    """What differs between trackers. All methods may raise anything."""

    def open(self, spec: TrialSpec, values: Mapping[str, Any]) -> Any:
        """A new run, in the project of the study and the group of the cell."""

    def log(self, run: Any, values: dict[str, float], step: int) -> None: ...

    def end(self, run: Any, values: dict[str, float], ok: bool) -> None:
        """`values`: the trial's results."""


class Tracker(Watcher):
    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        """`say`: tells the user a line, if something goes wrong."""
        self._name = name
        self._say = say
        self._service: Service | None = None
        self._runs: dict[str, Any] = {}
        """Those of the trials that are running, by key."""
        self._broken = False
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name=f"harness-{name}", daemon=True)
        self._thread.start()

    def started(self, spec: TrialSpec) -> None:
        self._calls.put(partial(self._open, spec))

    def epoch(self, spec: TrialSpec, record: EpochRecord) -> None:
        self._calls.put(partial(self._log, spec, dict(scalars(record)), record.epoch + 1))

    def ended(self, record: TrialRecord) -> None:
        self._calls.put(partial(self._end, record.key, dict(_results(record)), record.status == "ok"))

    def close(self) -> None:
        self._calls.put(None)
        self._thread.join(LAST_WORDS_SECONDS)
        if self._thread.is_alive() and not self._broken:
            self._give_up(f"not done after {LAST_WORDS_SECONDS:.0f} s")

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if not self._broken:
                self._try(call)
        for key in list(self._runs):  # of trials that were interrupted
            self._try(partial(self._end, key, {}, False))

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except (Exception, SystemExit) as error:
            self._give_up(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")

    def _give_up(self, reason: str) -> None:
        self._broken = True
        self._runs.clear()
        self._say(f"{self._name} gets no more of this study, which goes on without it: {reason}")

    def _open(self, spec: TrialSpec) -> None:
        if self._service is None:
            self._service = _SERVICES[self._name]()
        self._runs[spec.key] = self._service.open(spec, _configuration(spec))

    def _log(self, spec: TrialSpec, values: dict[str, float], step: int) -> None:
        assert self._service is not None
        self._service.log(self._runs[spec.key], values, step)

    def _end(self, key: str, values: dict[str, float], ok: bool) -> None:
        if self._service is not None and (run := self._runs.pop(key, None)) is not None:
            self._service.end(run, values, ok)


def _name(spec: TrialSpec) -> str:
    return f"{spec.cell_id}/{spec.purpose}-{spec.index}"


def _configuration(spec: TrialSpec) -> dict[str, Any]:
    own = {"task": spec.task.name, "strategy": spec.strategy, "label": spec.label, "repeat": spec.repeat, "trial": spec.index}
    settings = {f"settings.{name}": value for name, value in spec.settings.items()}
    training = {f"training.{name}": value for name, value in spec.training.model_dump(mode="json").items()}
    return {**own, "cell": spec.cell_id, "purpose": spec.purpose, "key": spec.key, **settings, **training}


def _results(record: TrialRecord) -> Iterator[tuple[str, float]]:
    if record.objective is not None:
        yield "objective", record.objective
    for split, score in record.report.items():
        for name, value in score.metrics.items():
            yield f"report/{split}/{name}", value


class _Wandb:
    def __init__(self) -> None:
        # it would write over the console, catch what is printed, and ask for a key
        for name, value in (("SILENT", "true"), ("CONSOLE", "off"), ("LOGIN_TIMEOUT", "1")):
            os.environ.setdefault(f"WANDB_{name}", value)

    def open(self, spec: TrialSpec, values: Mapping[str, Any]) -> Any:
        import wandb

        # several at once: trials run beside each other
        return wandb.init(project=spec.study, group=spec.cell_id, name=_name(spec), config=dict(values), reinit="create_new")

    def log(self, run: Any, values: dict[str, float], step: int) -> None:
        run.log(values, step=step)

    def end(self, run: Any, values: dict[str, float], ok: bool) -> None:
        run.summary.update(values)
        run.finish(exit_code=0 if ok else 1)


class _Trackio:
    def open(self, spec: TrialSpec, values: Mapping[str, Any]) -> Any:
        import trackio

        for name, module in list(sys.modules.items()):  # there is no switch for what it prints
            if name.partition(".")[0] == "trackio":
                vars(module)["print"] = lambda *said, **_: logging.getLogger("trackio").info("%s", " ".join(map(str, said)))
        # in a context of its own: it ends the run that it finds in the present one
        return contextvars.Context().run(
            trackio.init,
            project=spec.study,
            group=spec.cell_id,
            name=f"{_name(spec)}-{spec.key[:6]}",
            config=dict(values),
            embed=False,
            auto_log_gpu=False,
        )

    def log(self, run: Any, values: dict[str, float], step: int) -> None:
        run.log(values, step=step)

    def end(self, run: Any, values: dict[str, float], ok: bool) -> None:
        if values:
            run.log(values)
        run.finish()


class _Mlflow:
    """Through its client, which knows no present run; a cell is a tag, by which MLflow's page groups runs."""

    def __init__(self) -> None:
        os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")  # it would write over the console
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        self._experiments: dict[str, str] = {}

    def open(self, spec: TrialSpec, values: Mapping[str, Any]) -> str:
        from mlflow.entities import Param

        if spec.study not in self._experiments:
            found = self._client.get_experiment_by_name(spec.study)
            self._experiments[spec.study] = found.experiment_id if found else self._client.create_experiment(spec.study)
        tags = {"cell": spec.cell_id, "task": spec.task.name, "strategy": spec.label}
        run = self._client.create_run(self._experiments[spec.study], run_name=_name(spec), tags=tags)
        self._client.log_batch(run.info.run_id, params=[Param(name, str(value)) for name, value in values.items()])
        return str(run.info.run_id)

    def log(self, run: Any, values: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(run, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def end(self, run: Any, values: dict[str, float], ok: bool) -> None:
        if values:
            self.log(run, values, 0)
        self._client.set_terminated(run, "FINISHED" if ok else "FAILED")


_SERVICES: dict[str, Callable[[], Service]] = {"wandb": _Wandb, "trackio": _Trackio, "mlflow": _Mlflow}
