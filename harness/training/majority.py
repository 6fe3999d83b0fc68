"""The predictor that always says the most frequent training label: what a failed trial scores."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from harness.data.rows import Rows, TrainingRows
from harness.records import Score
from harness.study.tasks import TaskSpec, task_metrics


def majority_scores(training: TrainingRows, report: Mapping[str, Rows], task: TaskSpec) -> dict[str, Score]:
    """Split of `report`, which may be `select` too -> score of the most frequent label of the fit and meta rows."""
    label = int(np.bincount(np.concatenate([training.fit.labels, training.meta.labels])).argmax())
    return {
        split: Score(rows=len(rows.labels), metrics=task_metrics(task, rows.labels, np.full_like(rows.labels, label)))
        for split, rows in report.items()
    }
