"""Generated tasks: a seeded grammar for each of GLUE's seven, with GLUE's columns, labels and metrics.

For running everything in minutes, anywhere. A number that comes out of them says nothing about natural language. They are
hard enough that a small transformer beats a smaller one, and a share of the labels is noise that nobody can learn, so that
soft labels carry information.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from harness.data.grammars import Pair, acceptability, duplicate, entailment, question_answer, sentiment, three_way
from harness.data.rows import Rows
from harness.data.source import TaskData
from harness.records import digest
from harness.study import DataSpec, TaskSpec

NOISE = 0.06
"""Share of labels that are random in every split, as annotators' disagreement is; no model gets beyond about 1 - NOISE/2."""

_GRAMMARS: dict[str, Callable[[np.random.Generator, str], Pair]] = {
    "cola": acceptability,
    "sst2": sentiment,
    "mrpc": partial(duplicate, questions=False),
    "qqp": partial(duplicate, questions=True),
    "mnli": three_way,
    "qnli": question_answer,
    "rte": entailment,
}


def load(task: TaskSpec, spec: DataSpec) -> TaskData:
    """Rows of a generated task; a pure function of the task's name and the spec's seed and sizes."""
    size = spec.generated
    train = _rows(task, size.train_rows, spec.seed, "train", "home")
    report = {"validation": _rows(task, size.report_rows, spec.seed, "validation", "home")}
    if task.name == "mnli":
        report["validation_mismatched"] = _rows(task, size.report_rows, spec.seed, "validation_mismatched", "away")
    if size.flipped > 0:
        train = _plant_flips(train, size.flipped, len(task.labels), _generator(task, spec.seed, "flips"))
    return TaskData(train, report, origin="generated (a seeded grammar, not natural language)")


def _rows(task: TaskSpec, count: int, seed: int, split: str, genre: str) -> Rows:
    generator = _generator(task, seed, split)
    pairs = [_GRAMMARS[task.name](generator, genre) for _ in range(count)]
    labels = np.array([pair.label for pair in pairs], np.int64)
    noisy = generator.random(count) < NOISE
    labels[noisy] = generator.integers(0, len(task.labels), int(noisy.sum()))
    columns = ([pair.first for pair in pairs], [pair.second for pair in pairs])
    return Rows(np.arange(count, dtype=np.int64), columns[: len(task.text)], labels)


def _plant_flips(rows: Rows, share: float, classes: int, generator: np.random.Generator) -> Rows:
    flipped = np.zeros(len(rows), bool)
    flipped[generator.permutation(len(rows))[: round(len(rows) * share)]] = True
    labels = rows.labels.copy()
    labels[flipped] = (labels[flipped] + generator.integers(1, classes, int(flipped.sum()))) % classes
    return Rows(rows.ids, rows.texts, labels, flipped)


def _generator(task: TaskSpec, seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng(int(digest([task.name, seed, purpose]), 16))
