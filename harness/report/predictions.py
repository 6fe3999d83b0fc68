"""Per-example predictions of the chosen trials, lined up by example."""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import StoreError
from harness.report.selection import Row, Selection
from harness.stats.paired import Seeds, point_scores
from harness.store.prediction_table import split_arrays
from harness.store.store import Store


@dataclass(frozen=True)
class TaskPredictions:
    """Predictions of one task on one report split."""

    ids: NDArray[np.int64]  # [rows]
    labels: NDArray[np.int64]  # [rows]
    predicted: NDArray[np.int64]  # [labels, repeats, rows]
    present: NDArray[np.bool_]  # [labels, repeats]
    classes: int
    metric: str
    seeds: Seeds
    probabilities: NDArray[np.float32] | None = None
    """[labels, repeats, rows, classes], NaN for a failed run; None where they were not asked for."""

    @property
    def students(self) -> NDArray[np.int64] | None:
        """`same_students`; None where probabilities were not asked for."""
        if self.probabilities is None:
            return None
        return same_students(self.probabilities)


def same_students(probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
    """Of [labels, repeats, rows, classes], [labels, repeats]: the same number for runs that said the same probabilities of
    every row, and not the same of all rows: one student, trained twice.
    """
    first: dict[bytes, int] = {}
    numbers = [
        first.setdefault(hashlib.sha256(run.tobytes()).digest(), place) if (np.ptp(run, axis=0) > 0).any() else place
        for place, run in enumerate(probabilities.reshape(-1, *probabilities.shape[2:]))
    ]
    return np.array(numbers, np.int64).reshape(probabilities.shape[:2])


def load_predictions(
    selection: Selection,
    task: str,
    labels: tuple[str, ...] | None = None,
    probabilities: bool = False,
    split: str | None = None,
) -> TaskPredictions | None:
    """None where no trial of the task has predictions. A failed cell predicts what the majority predictor predicts.

    `split`: not given, that which the task's scores are of.

    Rows whose predictions cannot be used are left out (`present` is False) and told in `selection.warnings`.
    """
    store = Store(selection.path)
    wanted = selection.labels if labels is None else labels
    rows = [selection.rows[task, label, repeat] for label in wanted for repeat in range(selection.repeats)]
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda row: _load(store, row, probabilities, split), rows))
    for problem in dict.fromkeys(found for found in loaded if isinstance(found, str)):
        if problem not in selection.warnings:
            selection.warnings.append(problem)
    frames = [found if isinstance(found, tuple) else None for found in loaded]
    first = next((frame for frame in frames if frame is not None), None)
    if first is None:
        return None
    ids, truth = first[:2]
    spec = selection.task_spec(task)
    predicted = np.zeros((len(rows), len(ids)), dtype=np.int64)
    present = np.zeros(len(rows), dtype=bool)
    said = np.full((len(rows), len(ids), len(spec.labels)), np.nan, np.float32) if probabilities else None
    for position, (row, frame) in enumerate(zip(rows, frames, strict=True)):
        if row.state == "failed" and row.record is not None:
            predicted[position] = _majority_class(row, truth, len(spec.labels), split)
            present[position] = True
        elif frame is not None:
            if not (np.array_equal(frame[0], ids) and np.array_equal(frame[1], truth)):
                selection.warnings.append(
                    f"{task}/{row.label}/{row.repeat} was scored on other examples: not compared in pairs."
                )
                continue
            predicted[position] = frame[2]
            if said is not None:
                said[position] = frame[3]
            present[position] = row.state == "ok"
    shape = (len(wanted), selection.repeats)
    source = selection.tasks[selection.data_sets[selection.tasks.index(task)]]  # tasks of one data set are drawn together
    seeds = Seeds(zlib.crc32(selection.task_spec(source).source_name.encode()), zlib.crc32(task.encode()) + 1)
    return TaskPredictions(
        ids, truth, predicted.reshape(*shape, -1), present.reshape(shape), len(spec.labels), spec.headline_metric, seeds,
        None if said is None else said.reshape(*shape, *said.shape[1:]),
    )  # fmt: skip


def load_teacher(selection: Selection, task: str, ids: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Probabilities [rows, classes] of the rows `ids`, the mean over all teachers that the task's trials learn from; None where
    the store does not keep what each of them said.

    Of a teacher that came out different on several machines, the one that most trials had: `selection` warns of it.
    """
    store, split = Store(selection.path), selection.headline_split(task)
    names: dict[str, Counter[str]] = defaultdict(Counter)
    for record in selection.records:
        if record.spec.task.name == task and record.status == "ok":
            own = record.teacher_names or [""] * len(record.spec.teacher_digests)  # made before contents were recorded
            for digest, name in zip(record.spec.teacher_digests, own, strict=True):
                names[digest][name] += 1
    said = []
    for counts in names.values():
        try:
            table = store.teacher_table(counts.most_common(1)[0][0])
        except StoreError as error:
            if str(error) not in selection.warnings:
                selection.warnings.append(str(error))
            return None
        found = None if table is None else split_arrays(table, split, probabilities=True)
        if found is None or not np.array_equal(found[0], ids):
            return None
        said.append(found[3].astype(np.float64))
    return np.asarray(np.mean(said, axis=0)) if said else None


def _load(store: Store, row: Row, probabilities: bool, split: str | None) -> tuple[NDArray[Any], ...] | str | None:
    """Ids, labels and predicted classes [rows], and where asked for probabilities [rows, classes]."""
    if row.record is None or row.record.status != "ok":
        return None
    split = split or row.record.spec.data.headline_split
    if split not in row.record.report:
        return None
    try:
        found = store.predicted_classes(row.record.key, split, probabilities)
    except StoreError as error:
        return str(error)
    _, truth, said, *_ = found
    task = row.record.spec.task
    score = float(point_scores(task.headline_metric, truth, said[None], len(task.labels))[0])
    if not np.isclose(score, row.record.report[split].metrics[task.headline_metric], atol=1e-6):
        return f"{task.name}/{row.label}/{row.repeat}: its score is not that of its predictions. Not compared in pairs."
    return found


def _majority_class(row: Row, truth: NDArray[np.int64], classes: int, split: str | None) -> int:
    """The class that the majority predictor says: the most frequent one that gives the score it is recorded with."""
    assert row.record is not None
    metrics = row.record.spec.task.metrics
    recorded = row.record.majority.get(split or row.record.spec.data.headline_split)
    constant = np.repeat(np.arange(classes)[:, None], len(truth), axis=1)
    frequency = np.bincount(truth, minlength=classes)[:classes]
    if recorded is None:
        return int(frequency.argmax())
    error = sum(np.abs(point_scores(metric, truth, constant, classes) - recorded.metrics[metric]) for metric in metrics)
    return int(np.lexsort((-frequency, np.round(error, 9)))[0])
