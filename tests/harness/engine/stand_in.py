"""A study without data or models, and a training that only pretends: what an engine does around trials, tested fast.

A strategy's label says how its trials behave: `plain`, `raises`, `diverges`, `nan`, `killed` (the process of its first trial
dies once, after the first epoch), `killed_rank` (rank 1 does), `slow` (0.4 s an epoch), `always_killed`, `lost_device` (its
first trial meets a CUDA error once, after the first epoch), `always_lost_device`, `stopped` (stands still once, after the first
epoch). Any other label: nothing happens. In a
process that has met a CUDA error every trial meets it.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from harness.plan.plan import Plan, make_plan
from harness.plan.prepared import PreparedTask
from harness.records import EpochRecord, Score, TrialRecord, TrialSpec
from harness.study.schema import Study
from harness.training.checkpoint import FILE, CheckpointError
from harness.training.failures import DivergedError
from harness.training.hooks import StoppedEarly

CUDA_ERROR = "CUDA error: device-side assert triggered"
_lost_devices: list[str] = []
"""Of this process."""

SPACE = {"temperature": {"type": "float", "low": 1.0, "high": 8.0}}


def stand_in_study(labels: list[str], **changes: Any) -> Study:
    content: dict[str, Any] = {
        "name": "stand_in",
        "tasks": ["sst2"],
        "strategies": [{"name": "fixed_alpha", "label": label} for label in labels],
        "models": {
            "student": {"config": {"model_type": "bert"}},
            "teachers": [{"config": {"model_type": "bert"}}],
        },
        "training": {"epochs": 3},
        "search": {"trials": 2, "repeats": 1, "space": SPACE},
    }
    search = {**content["search"], **changes.pop("search", {})}
    resources = {"checkpoint_seconds": 0, **changes.pop("resources", {})}
    return Study.model_validate({**content, "search": search, "resources": resources, **changes})


def stand_in_plan(study: Study) -> tuple[Plan, dict[str, PreparedTask]]:
    plan = make_plan(study, Path.cwd())
    prepared = PreparedTask(
        data_digest="data",
        digests={},
        rows={},
        origin="nowhere",
        majority={"validation": Score(rows=2, metrics={"accuracy": 0.5})},
        student_digest="student",
        teacher_digests={"teacher": "teacher"},
    )
    return plan, {task.name: prepared for task in plan.tasks}


def _epoch(epoch: int, total: float) -> EpochRecord:
    return EpochRecord(epoch=epoch, train_loss=0.0, terms={}, select={"accuracy": total}, weights={}, seconds=0.0)


def stand_in_train(
    spec: TrialSpec,
    cache: Path,
    ranks: Any = None,
    on_epoch: Callable[[EpochRecord, Callable[[Path], None]], None] | None = None,
    resume_from: Path | None = None,
    **_: Any,
) -> Any:
    """Every epoch adds 1 / temperature. Notes each start and epoch in `cache`/log, with the process that did it."""
    rank = 0 if ranks is None else ranks.rank
    total, first = 0.0, 0
    if resume_from is not None:
        try:
            state = json.loads((resume_from / FILE).read_text())
        except ValueError as error:
            raise CheckpointError("damaged") from error
        total, first = state["total"], state["epochs"]
    _note(cache, spec, rank, "starts", first)
    records = [_epoch(epoch, (epoch + 1) / spec.training.temperature) for epoch in range(first)]
    for epoch in range(first, spec.training.epochs):
        if ranks is not None:
            _meet(ranks)
        total += 1 / spec.training.temperature
        _behave(spec, cache, rank, epoch)
        _note(cache, spec, rank, "epoch", epoch)
        records.append(record := _epoch(epoch, total))

        def write(folder: Path, state: Any = {"total": total, "epochs": epoch + 1}) -> None:  # noqa: B006
            folder.mkdir(parents=True, exist_ok=True)
            unfinished = folder / (FILE + ".tmp")  # whole or not at all, as a real one: a test may kill in the middle
            unfinished.write_text(json.dumps(state))
            unfinished.replace(folder / FILE)

        if on_epoch is not None:
            try:
                on_epoch(record, write)
            except StoppedEarly:
                stopped = TrialRecord(
                    key=spec.key, status="stopped", spec=spec, objective=None, epochs=records, stopped_after_epoch=epoch + 1
                )
                return SimpleNamespace(record=stopped, predictions=None)
    predictions = pd.DataFrame(
        {"split": ["validation"] * 2, "id": [0, 1], "label": [0, 1], "predicted": [0, 0], "p0": [0.9, 0.6], "p1": [0.1, 0.4]}
    )
    record = TrialRecord(
        key=spec.key,
        status="ok",
        spec=spec,
        objective=math.nan if spec.label == "nan" else total,
        best_epoch=spec.training.epochs - 1,
        report={"validation": Score(rows=2, metrics={"accuracy": 0.5})},
        epochs=records,
    )
    return SimpleNamespace(record=record, predictions=predictions)


def read_log(cache: Path) -> pd.DataFrame:
    """What the trainings did: key, label, rank, kind, epoch, process."""
    lines = (cache / "log").read_text().splitlines()
    return pd.DataFrame([json.loads(line) for line in lines])


def _behave(spec: TrialSpec, cache: Path, rank: int, epoch: int) -> None:
    if spec.label == "slow":
        time.sleep(0.4)
    if spec.label == "raises":
        raise KeyError("a mistake in a strategy")
    if spec.label == "diverges" and epoch == 1:
        raise DivergedError("the loss is nan")
    first_time = spec.index == 0 and _starts(cache, spec, rank) == 1
    if epoch == 1 and (spec.label == "always_lost_device" or (spec.label == "lost_device" and first_time)):
        _lost_devices.append(spec.key)
    if _lost_devices:
        raise RuntimeError(CUDA_ERROR)
    if spec.label == "stopped" and epoch == 1 and _starts(cache, spec, rank) == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    dies_once = spec.label == f"killed{'_rank' if rank else ''}" and spec.index == 0
    if epoch == 1 and (spec.label == "always_killed" or (dies_once and _starts(cache, spec, rank) == 1)):
        os.kill(os.getpid(), signal.SIGKILL)


def _meet(ranks: Any) -> None:
    """As in every step of a real training: no rank gets an epoch ahead, or dies, before the others have come as far."""
    import torch

    ranks.sum_([torch.zeros(1)])


def _starts(cache: Path, spec: TrialSpec, rank: int) -> int:
    log = read_log(cache)
    return int(((log.key == spec.key) & (log["rank"] == rank) & (log.kind == "starts")).sum())


def _note(cache: Path, spec: TrialSpec, rank: int, kind: str, epoch: int) -> None:
    line = {"key": spec.key, "label": spec.label, "rank": rank, "kind": kind, "epoch": epoch, "process": os.getpid()}
    line |= {"task": spec.task.name, "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
    with (cache / "log").open("a") as log:
        log.write(json.dumps(line) + "\n")


class Refused(Exception):
    """Made by a task."""


def invert(item: int) -> float:
    """A task on the cluster; here, because what a process must import for it takes longer than the rest."""
    if item == 0:
        raise Refused("zero has no inverse")
    return 1 / item


def die_until(item: tuple[str, int]) -> int:
    """As a process that is killed, while the file's count is below the number."""
    file, times = Path(item[0]), item[1]
    tried = len(file.read_text()) if file.exists() else 0
    file.write_text("x" * (tried + 1))
    if tried < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return tried
