"""What stored probabilities know beyond the headline metric. A measure is one entry of MEASURES.

Each is a function of sums over rows, so that a bootstrap over rows is one product of matrices for all runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.stats.bootstrap import example_counts
from harness.stats.metrics import Array
from harness.stats.paired import Seeds, TaskSample, task_sample

BINS = 15
LEAST = 2.0**-24
"""The smallest probability above 0 that a store keeps (float16): of what it keeps as 0, the logarithm is taken of this."""
_DRAWS_AT_ONCE, _CELLS_AT_ONCE = 128, 10_000_000


@dataclass(frozen=True)
class Measure:
    """`columns`: of labels [rows] and probabilities [runs, rows, classes], what is to be added up, [rows, runs, columns].
    `score`: from the sums [..., columns] over so many rows to [...].
    """

    title: str
    hint: str
    """What it is, its unit and its direction."""
    scale: float
    """Times which it is shown: 100 for points."""
    digits: int
    columns: Callable[[NDArray[Any], Array], Array]
    score: Callable[[Array, int], Array]
    of_teacher: bool = False
    """`columns` takes the teacher's probabilities [rows, classes] in the place of the labels."""


def _label_probability(labels: NDArray[np.int64], probabilities: Array) -> Array:
    return np.asarray(probabilities[:, np.arange(len(labels)), labels].T)  # [rows, runs]


def _log_losses(labels: NDArray[np.int64], probabilities: Array) -> Array:
    return np.asarray(-np.log(np.maximum(_label_probability(labels, probabilities), LEAST))[:, :, None])


def _square_errors(labels: NDArray[np.int64], probabilities: Array) -> Array:
    right = _label_probability(labels, probabilities)
    return np.asarray(((probabilities**2).sum(-1).T - 2 * right + 1)[:, :, None])


def _gaps_in_bins(labels: NDArray[np.int64], probabilities: Array) -> Array:
    """Confidence less correctness, in the column of the row's bin: of each run, BINS bins of as many rows."""
    rows = len(labels)
    confidence = probabilities.max(-1).T
    gap = confidence - (labels[:, None] == probabilities.argmax(-1).T)
    place = np.argsort(np.argsort(confidence, axis=0, kind="stable"), axis=0, kind="stable")
    return np.asarray(np.where((place * BINS // rows)[:, :, None] == np.arange(BINS), gap[:, :, None], 0.0))


def _hits_and_totals(labels: NDArray[np.int64], probabilities: Array) -> Array:
    """For each class right predictions, then for each class predictions + labels."""
    each = np.arange(probabilities.shape[-1])
    said = (probabilities.argmax(-1).T[:, :, None] == each).astype(np.float64)
    actual = (labels[:, None] == each).astype(np.float64)[:, None, :]
    return np.concatenate([said * actual, said + actual], axis=-1)


def _agreements(teacher: Array, probabilities: Array) -> Array:
    return np.asarray((probabilities.argmax(-1) == teacher.argmax(-1)).T[:, :, None].astype(np.float64))


def _divergences(teacher: Array, probabilities: Array) -> Array:
    logarithms = np.log(np.maximum(teacher, LEAST)) - np.log(np.maximum(probabilities, LEAST))
    return np.asarray((teacher * logarithms).sum(-1).T[:, :, None])


def _mean(sums: Array, rows: int) -> Array:
    return np.asarray(sums[..., 0] / rows)


def _sum_of_gaps(sums: Array, rows: int) -> Array:
    return np.asarray(np.abs(sums).sum(-1) / rows)


def _macro_f1(sums: Array, rows: int) -> Array:
    hits, total = np.split(sums, 2, axis=-1)
    each = np.where(total > 0, 2 * hits / np.maximum(total, 1.0), 0.0)
    return np.asarray(each.sum(-1) / np.maximum((total > 0).sum(-1), 1))


MEASURES: dict[str, Measure] = {
    "nll": Measure("NLL", "negative log-likelihood, nats a row, lower is better", 1.0, 3, _log_losses, _mean),
    "brier": Measure(
        "Brier", "squared error of all classes' probabilities, 0 to 2, lower is better", 1.0, 3, _square_errors, _mean
    ),
    "ece": Measure(
        "ECE",
        f"expected calibration error, points, of the predicted class in {BINS} bins of as many rows, lower is better",
        100.0, 1, _gaps_in_bins, _sum_of_gaps,
    ),
    "macro_f1": Measure(
        "Macro-F1", "mean of F1 over the classes that occur, points, higher is better", 100.0, 1, _hits_and_totals, _macro_f1
    ),
    "agreement": Measure(
        "Agreement", "rows on which student and teacher say the same class, points", 100.0, 1, _agreements, _mean, True
    ),
    "kl": Measure(
        "KL", "KL(teacher || student) at temperature 1, nats a row, lower is nearer", 1.0, 3, _divergences, _mean, True
    ),
}  # fmt: skip


def sample_measures(
    labels: NDArray[np.int64],
    probabilities: Array,
    present: NDArray[np.bool_],
    draws: int,
    seeds: Seeds,
    teacher: Array | None = None,
) -> dict[str, TaskSample]:
    """Of every measure, the bootstrap of one task. All share the draws of rows and of repeats.

    `labels` [rows], `probabilities` [strategies, repeats, rows, classes], `present` [strategies, repeats] (False: no such run).
    `teacher`: its probabilities [rows, classes]; without them there is no
    measure of agreement with it.
    """
    against: dict[str, NDArray[Any]] = {name: labels for name, measure in MEASURES.items() if not measure.of_teacher}
    if teacher is not None:
        against |= {name: _normalised(teacher) for name, measure in MEASURES.items() if measure.of_teacher}
    strategies, repeats, rows, classes = probabilities.shape
    runs = probabilities.reshape(-1, rows, classes)
    at_once = max(1, _CELLS_AT_ONCE // (rows * (BINS + 2 * classes + 2)))
    blocks = [_scores(against, runs[start : start + at_once], draws, seeds.examples) for start in range(0, len(runs), at_once)]
    samples = {}
    for name in against:
        drawn, whole = (np.concatenate([block[name][k] for block in blocks], axis=-1) for k in range(2))
        drawn = np.where(present, drawn.reshape(draws, strategies, repeats), np.nan)
        whole = np.where(present, whole.reshape(strategies, repeats), np.nan)
        # what is no mean of rows is off in a resample (a calibration error above all, too high): spread counts, not place
        samples[name] = task_sample(drawn + (whole - drawn.mean(0)), whole, seeds)
    return samples


def _normalised(probabilities: Array) -> Array:
    """[..., classes] in float64: halves do not quite add up to 1."""
    exact = probabilities.astype(np.float64)
    return np.asarray(exact / np.maximum(exact.sum(-1, keepdims=True), LEAST))


def _scores(
    against: dict[str, NDArray[Any]], runs: Array, draws: int, seed: int
) -> dict[str, tuple[Array, Array]]:  # fmt: skip
    """Of every measure, scores on drawn rows [draws, runs], the same rows for each seed, and on all rows [runs]. `against`:
    measure -> labels, or what the teacher says.
    """
    rows, runs = runs.shape[1], _normalised(runs)
    parts = [MEASURES[name].columns(other, runs) for name, other in against.items()]
    ends = np.cumsum([part.shape[-1] for part in parts])
    together = np.concatenate(parts, axis=-1)
    flat = together.reshape(rows, -1)
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[Array]] = {name: [] for name in against}
    for start in range(0, draws, _DRAWS_AT_ONCE):
        counts = example_counts(rng, rows, min(_DRAWS_AT_ONCE, draws - start))
        sums = (counts.astype(np.float64) @ flat).reshape(len(counts), len(runs), -1)
        for name, part in zip(against, np.split(sums, ends[:-1], axis=-1), strict=True):
            drawn[name].append(MEASURES[name].score(part, rows))
    return {
        name: (np.concatenate(drawn[name]), MEASURES[name].score(part.sum(0), rows))
        for name, part in zip(against, parts, strict=True)
    }
