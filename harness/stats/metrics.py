"""Classification metrics from class counts, for many resamples at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def accuracy(hits: Array, predicted: Array, actual: Array) -> Array:
    return np.asarray(hits.sum(-1) / actual.sum(-1))


def f1(hits: Array, predicted: Array, actual: Array) -> Array:
    """Of class 1 for two classes, else the mean over the classes that occur. 0 where nothing is predicted or to be found."""
    total = predicted + actual
    with np.errstate(invalid="ignore"):
        each = np.where(total > 0, 2 * hits / total, 0.0)
    if hits.shape[-1] == 2:
        return np.asarray(each[..., 1])
    return np.asarray(each.sum(-1) / np.maximum((total > 0).sum(-1), 1))


def matthews(hits: Array, predicted: Array, actual: Array) -> Array:
    """Matthews correlation of any number of classes (Gorodkin 2004); 0 where one side is constant."""
    rows = actual.sum(-1)
    covariance = hits.sum(-1) * rows - (predicted * actual).sum(-1)
    spread = (rows**2 - (predicted**2).sum(-1)) * (rows**2 - (actual**2).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > 0, covariance / np.sqrt(spread), 0.0)


METRICS: dict[str, Callable[[Array, Array, Array], Array]] = {"accuracy": accuracy, "f1": f1, "matthews": matthews}
"""From [..., classes] counts of right predictions, predictions and labels of each class to [...] scores."""


def class_indicators(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> tuple[Array, Array, Array]:
    """What to sum over rows to get the counts: hits and predictions [rows, runs, classes], labels [rows, classes].

    `labels` [rows], `predicted` [runs, rows].
    """
    each = np.arange(classes)
    actual = (labels[:, None] == each).astype(np.float64)
    said = (predicted.T[:, :, None] == each).astype(np.float64)
    return said * actual[:, None, :], said, actual


def class_scores(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> tuple[Array, Array]:
    """Recall and F1 of each class, [..., classes], of predicted [..., rows]; NaN for a class that does not occur."""
    flat = predicted.reshape(-1, predicted.shape[-1])
    hits, said, actual = (part.sum(0) for part in class_indicators(labels, flat, classes))
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = np.where(actual > 0, hits / actual, np.nan)
        each = np.where(actual > 0, 2 * hits / (said + actual), np.nan)
    shape = (*predicted.shape[:-1], classes)
    return recall.reshape(shape), each.reshape(shape)
