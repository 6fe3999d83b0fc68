"""Generated tasks: a seeded grammar for each of GLUE's seven, with GLUE's columns, labels and metrics, and one for tasks of a
study's own, of any number of classes.

For running everything in minutes, anywhere. A number that comes out of them says nothing about natural language. Some labels
are open to doubt, so that soft labels carry information and no model can be right everywhere: a few by the plain rules
(`harness.data.grammars`), all by the graded ones (`harness.data.graded`), where a teacher that has seen more rows knows more.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial

import numpy as np

from harness.data import graded, grammars
from harness.data.grammars import TALE, TOWN, Drawn, Genre
from harness.data.rows import Rows, TaskData
from harness.digest import digest
from harness.study.data import DataSpec
from harness.study.tasks import TaskSpec

ORIGIN = "generated (a seeded grammar, not natural language)"

Grammar = Callable[[np.random.Generator, Genre], Drawn]

GRAMMARS: dict[str, dict[str, Grammar]] = {
    rules: {
        "cola": module.acceptability,
        "sst2": module.sentiment,
        "mrpc": partial(module.paraphrase, questions=False, equal=equal[0]),
        "qqp": partial(module.paraphrase, questions=True, equal=equal[1]),
        "mnli": module.three_way,
        "qnli": module.answered,
        "rte": module.entailment,
    }
    for rules, module, equal in (("plain", grammars, (0.58, 0.4)), ("graded", graded, (0.3, -0.5)))
}


def load(task: TaskSpec, spec: DataSpec) -> TaskData:
    """Rows of a generated task, a pure function of the task's name and the spec's seed and sizes.

    Row i of a split is the same however many rows are asked for. No text is both in training and in a report split.
    """
    size = spec.generated
    train = _rows(task, size.rules, size.train_rows, spec.seed, "train", TOWN)
    report = {"validation": _rows(task, size.rules, size.report_rows, spec.seed, "validation", TOWN)}
    if task.name == "mnli":
        report["validation_mismatched"] = _rows(task, size.rules, size.report_rows, spec.seed, "validation_mismatched", TALE)
    if size.flipped > 0:
        train = _plant_flips(train, size.flipped, len(task.labels), np.random.default_rng(_entropy(task, spec.seed, "flips")))
    return TaskData(train, report, origin=ORIGIN)


def _rows(task: TaskSpec, rules: str, count: int, seed: int, split: str, genre: Genre) -> Rows:
    entropy = _entropy(task, seed, split)
    draw = GRAMMARS[rules].get(task.name) or partial(grammars.topic, classes=len(task.labels))
    texts: list[tuple[str, ...]] = []
    labels = np.empty(count, np.int64)
    for row in range(count):
        generator = np.random.default_rng([entropy, row])
        drawn = draw(generator, genre)
        while _held_out(drawn.texts) != (split != "train"):
            drawn = draw(generator, genre)
        texts.append(drawn.texts)
        labels[row] = np.searchsorted(np.cumsum(drawn.probabilities)[:-1], generator.random(), side="right")
    return Rows(np.arange(count, dtype=np.int64), tuple(list(column) for column in zip(*texts, strict=True)), labels)


def _held_out(texts: tuple[str, ...]) -> bool:
    """Does this text belong to the report splits? A fixed quarter of all texts does, whatever their label.

    Had training to avoid the drawn report rows instead, it would lack what is most common, and its labels would lean.
    """
    return zlib.crc32("\t".join(texts).encode()) % 4 == 0


def _plant_flips(rows: Rows, share: float, classes: int, generator: np.random.Generator) -> Rows:
    flipped = np.zeros(len(rows), bool)
    flipped[generator.permutation(len(rows))[: round(len(rows) * share)]] = True
    labels = rows.labels.copy()
    labels[flipped] = (labels[flipped] + generator.integers(1, classes, int(flipped.sum()))) % classes
    return Rows(rows.ids, rows.texts, labels, flipped)


def _entropy(task: TaskSpec, seed: int, purpose: str) -> int:
    return int(digest([task.name, seed, purpose]), 16)
