"""What a study's teachers said of rows: as files that another study takes as a teacher (`harness.data.output_files`), and in
the store, for agreement with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from harness.checksums import check
from harness.data.output_files import write_outputs
from harness.data.roles import load_report_rows
from harness.data.rows import Rows
from harness.data.teacher_outputs import TeacherOutputs, teacher_folder
from harness.errors import ModelError, StoreError
from harness.plan.plan import Plan
from harness.plan.prepared import PreparedTask
from harness.records import teacher_name
from harness.store.store import Store
from harness.study.schema import TeacherSpec
from harness.study.tasks import TaskSpec
from harness.teachers.fine_tuning import REPORT

Files = dict[str, dict[str, dict[str, str]]]
"""Teacher -> task -> split -> file, as a study's `outputs` name them."""


def export_outputs(plan: Plan, prepared: Mapping[str, PreparedTask], cache: Path, folder: Path) -> Files:
    """Write `<folder>/<teacher>/<task>/<split>.parquet`: logits of the rows that the study uses, by id.

    Names in the answer are relative to `folder`. Teachers of stored outputs are left out: they are files already. Raises
    ModelError for a teacher that could not be made, before anything is written.
    """
    for task in plan.tasks:
        for name, error in prepared[task.name].teacher_errors.items():
            raise ModelError(f"teacher {name!r} of {task.name} could not be made: {error.type}: {error.message}")
    found: Files = {}
    for teacher in plan.used_teachers:
        for task in plan.tasks:
            if teacher.outputs is None:
                files = _export(teacher, task, prepared[task.name], cache, folder)
                found.setdefault(teacher.name, {})[task.name] = files
    return found


def keep_predictions(plan: Plan, prepared: Mapping[str, PreparedTask], cache: Path, store: Store) -> None:
    """Put into the store what each teacher says of the report rows, once for all trials that learn from it, unless it is there.

    Of a teacher of stored outputs, the splits that it has files of.
    """
    import pandas as pd

    for task in plan.tasks:
        ready = prepared[task.name]
        for teacher, digest in ready.teacher_digests.items():
            if teacher in ready.teacher_errors:
                continue
            name = teacher_name(digest, TeacherOutputs.load(cache, digest).content)
            with suppress(StoreError):  # damaged: written anew
                if store.teacher_table(name) is not None:
                    continue
            rows = load_report_rows(cache, ready.data_digest)
            said = _report_logits(cache, digest)
            frames = [pd.DataFrame(_predictions(split, rows[split], logits)) for split, logits in said.items()]
            if frames:
                store.teacher_files.write(name, pd.concat(frames, ignore_index=True))


def _export(teacher: TeacherSpec, task: TaskSpec, ready: PreparedTask, cache: Path, folder: Path) -> dict[str, str]:
    digest = ready.teacher_digests[teacher.name]
    outputs = TeacherOutputs.load(cache, digest)
    rows = load_report_rows(cache, ready.data_digest)
    arrays = {"train": (outputs.ids, outputs.all_logits)}
    arrays |= {split: (rows[split].ids, logits) for split, logits in _report_logits(cache, digest).items()}
    files = {}
    for split, (ids, logits) in arrays.items():
        files[split] = f"{teacher.name}/{task.name}/{split}.parquet"
        write_outputs(folder / files[split], ids, logits, task.labels)
    return files


def _report_logits(cache: Path, digest: str) -> dict[str, np.ndarray]:
    """Report split -> logits [rows, classes], row by row as `load_report_rows`."""
    folder = teacher_folder(cache, digest)
    check(folder, [REPORT])
    with np.load(folder / REPORT) as arrays:
        return dict(arrays)


def _predictions(split: str, rows: Rows, logits: np.ndarray) -> dict[str, Any]:
    """Columns, as those of a trial's predictions."""
    from scipy.special import softmax

    probabilities = softmax(logits.astype(np.float64), axis=1)
    columns = {"split": split, "id": rows.ids, "label": rows.labels, "predicted": logits.argmax(1)}
    return columns | {f"p{k}": probabilities[:, k] for k in range(logits.shape[1])}
