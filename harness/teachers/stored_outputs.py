"""A teacher of which there are only outputs, computed elsewhere: put into the cache as a fine-tuned teacher's are."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from harness.checksums import sealed_folder, take_away
from harness.data.output_files import files_digest, read_outputs
from harness.data.roles import Roles
from harness.data.rows import Rows, TaskData
from harness.data.teacher_outputs import teacher_folder
from harness.digest import digest
from harness.errors import DataError
from harness.study.data import SURPLUS
from harness.study.schema import TeacherSpec
from harness.study.tasks import TaskSpec
from harness.teachers.fine_tuning import REPORT, TeacherJob, is_made, score_logits


def outputs_digest(teacher: TeacherSpec, task: TaskSpec, base: Path) -> str:
    """What the teacher's files of a task hold. `base` is where relative paths start. Raises DataError."""
    return files_digest(_files(teacher, task, base))


def in_order(job: TeacherJob, data: TaskData) -> TeacherJob:
    """The job, by the order of the rows too: files without ids are of the rows as they stand, and the digest of the data, whose
    rows are sorted by id, does not say how that is.
    """
    if job.teacher.outputs is None:
        return job
    splits = {"train": data.train, **data.report}
    orders = {name: rows.ids.tolist() for name, rows in splits.items() if (np.diff(rows.ids) < 0).any()}
    return job.model_copy(update={"source_digest": digest([job.source_digest, orders])}) if orders else job


def store_outputs(job: TeacherJob, data: TaskData, roles: Roles, cache: Path, base: Path) -> None:
    """Read and check the teacher's files, and cache what they hold of the study's rows, unless that is done.

    Raises DataError.
    """
    if is_made(job, cache):
        return
    take_away(teacher_folder(cache, job.digest))  # made before what is said of report rows was kept
    started = time.perf_counter()
    files = _files(job.teacher, job.task, base)

    def read(split: str, rows: Rows, used: np.ndarray) -> np.ndarray:
        labels = job.teacher.labels.get(job.task.name)
        return read_outputs(files[split], rows, used, job.task.labels, labels, job.teacher.output_kind)

    training = roles.training
    parts: tuple[Rows, ...] = (training.fit, training.meta, training.select)
    ids = np.sort(np.concatenate([part.ids for part in parts]))
    logits = read("train", data.train, ids)
    report = {part.role: score_logits(job.task, part, logits[np.searchsorted(ids, part.ids)]) for part in parts}
    said: dict[str, Any] = {}  # logits [rows, classes]; mypy takes what is passed on for `allow_pickle`
    for split, part in roles.report.items():
        if split == SURPLUS:
            said[split] = read("train", data.train, part.ids)
        elif split in files:
            said[split] = read(split, data.report[split], part.ids)
    report |= {split: score_logits(job.task, roles.report[split], own) for split, own in said.items()}
    if unknown := set(files) - {"train", *roles.report}:
        raise DataError(f"{files[min(unknown)]}: {job.task.name} has no split {min(unknown)!r} in these data")
    about = {
        "job": job.model_dump(mode="json"),
        "report": {split: score.model_dump() for split, score in report.items()},
        "epochs": [],
        "precision": "stored",
        "parameters": 0,
        "hidden_size": 0,
        "seconds": time.perf_counter() - started,
    }
    with sealed_folder(teacher_folder(cache, job.digest)) as target:
        np.save(target / "train_ids.npy", ids)
        np.save(target / "train_logits.npy", logits)
        np.savez(target / REPORT, **said)
        (target / "teacher.json").write_text(json.dumps(about, indent=1), "utf-8")


def _files(teacher: TeacherSpec, task: TaskSpec, base: Path) -> dict[str, Path]:
    assert teacher.outputs is not None
    return {split: base / file for split, file in teacher.outputs[task.name].items()}
