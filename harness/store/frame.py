"""Trial records as one flat pandas frame."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from harness.records import Score, TrialRecord

COLUMNS = (
    "key", "status", "study", "task", "strategy", "label", "repeat", "index", "purpose", "objective", "best_epoch",
    "metric", "score", "majority", "teacher", "label_budget", "protocol_version", "schema_version", "data_digest",
    "strategy_code", "settings", "training", "student_forward", "student_backward", "teacher_forward", "train_seconds",
    "total_seconds", "peak_memory_bytes", "device", "precision", "workers", "student_parameters", "error_kind",
    "error_type", "error_message", "finished_at",
)  # fmt: skip


def to_frame(records: Iterable[TrialRecord]) -> pd.DataFrame:
    """One row per trial, in the order given.

    Columns as in COLUMNS, then for every report split and metric `<split>.<metric>`, and for every varied value
    `settings.<name>` and `training.<name>`. `score`, `majority` and `teacher` (the best of them) are the headline `metric` on
    the split that the study reports on; NaN where there is none. `settings` and `training` are canonical JSON.
    """
    import pandas as pd

    rows = [_row(record) for record in records]
    frame = pd.DataFrame(rows)
    rest = sorted(set(frame.columns) - set(COLUMNS))
    frame = frame.reindex(columns=[*COLUMNS, *rest])
    numbers = ["objective", "score", "majority", "teacher", "best_epoch"]
    return frame.astype(dict.fromkeys(numbers, "float64"))


def _row(record: TrialRecord) -> dict[str, Any]:
    spec = record.spec
    metric = spec.task.headline_metric
    training = spec.training.model_dump(mode="json")
    cost = record.cost
    error = record.error
    split = spec.data.headline_split
    teachers = [scores[split].metrics.get(metric) for scores in record.teacher_report if split in scores]
    row: dict[str, Any] = {
        "key": record.key,
        "status": record.status,
        "study": spec.study,
        "task": spec.task.name,
        "strategy": spec.strategy,
        "label": spec.label,
        "repeat": spec.repeat,
        "index": spec.index,
        "purpose": spec.purpose,
        "objective": record.objective,
        "best_epoch": record.best_epoch,
        "metric": metric,
        "score": _headline(record.report.get(split), metric),
        "majority": _headline(record.majority.get(split), metric),
        "teacher": max((score for score in teachers if score is not None), default=None),
        "label_budget": spec.label_budget,
        "protocol_version": spec.protocol_version,
        "schema_version": record.schema_version,
        "data_digest": spec.data_digest,
        "strategy_code": spec.strategy_code,
        "settings": json.dumps(spec.settings, sort_keys=True),
        "training": json.dumps(training, sort_keys=True),
        **cost.model_dump(),
        "workers": spec.resources.workers,
        "student_parameters": record.student_parameters,
        "error_kind": error.kind if error else "",
        "error_type": error.type if error else "",
        "error_message": error.message if error else "",
        "finished_at": record.finished_at,
    }
    for part, score in record.report.items():
        row |= {f"{part}.{name}": value for name, value in score.metrics.items()}
    row |= {f"settings.{name}": value for name, value in spec.settings.items() if isinstance(value, bool | int | float | str)}
    row |= {f"training.{name}": value for name, value in training.items()}
    return row


def _headline(score: Score | None, metric: str) -> float | None:
    return None if score is None else score.metrics.get(metric)
