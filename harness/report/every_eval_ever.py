"""Results in the schema of *every_eval_ever* 0.3, for collections of evaluations: one document for each strategy."""

from __future__ import annotations

import hashlib
import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from harness import __version__
from harness.errors import UserError
from harness.report.caption import study_name
from harness.report.leaderboard import Leaderboard
from harness.store.files import write_atomically

SCHEMA = "0.3.0"
_METRICS = {"accuracy": ("Accuracy", 0.0), "f1": ("F1", 0.0), "matthews": ("Matthews correlation", -1.0)}
"""Name and least score; the largest is 1."""


def write_documents(board: Leaderboard, folder: Path) -> list[Path]:
    """`data/<study>/<study>/<label>/<uuid>.json` of every strategy with a score, as the collection and its validator want it:
    the middle parts are the model's id. Raises UserError for a folder that has files.
    """
    refuse_files(folder)
    written = []
    for i, label in enumerate(board.selection.labels):
        if (made := document(board, i)) is not None:
            study, name = (_folder_name(part) for part in (study_name(board), label))
            same = UUID(bytes=hashlib.sha256(made["evaluation_id"].encode()).digest()[:16], version=4)  # same store, same name
            path = folder / "data" / study / study / name / f"{same}.json"
            write_atomically(path, (json.dumps(made, indent=2, ensure_ascii=False) + "\n").encode())
            written.append(path)
    return written


def _folder_name(name: str) -> str:
    kept = "".join(letter if letter.isalnum() or letter in "_-.()" else "_" for letter in name)
    return kept if kept.strip(".") else "_"


def refuse_files(folder: Path) -> None:
    """Raises UserError for a folder that has files, and for a file."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty; name a folder that is, or that does not exist")


def document(board: Leaderboard, label: int) -> dict[str, Any] | None:
    """The strategy's student: a result for each task that it has a score on; None where there is none.

    A score is the mean over repeats, a fraction, with the interval that the table has.
    """
    selection = board.selection
    name, rows = selection.labels[label], selection.of(selection.labels[label])
    record = next((row.record for row in rows if row.record is not None), None)
    results = [_result(board, label, t) for t in range(len(selection.tasks)) if math.isfinite(board.task_mean[label, t])]
    if record is None or not results:
        return None
    student = record.spec.student
    model = f"{study_name(board)}/{name}"
    finished = str(selection.manifest.get("finished_at") or selection.manifest.get("started_at") or record.finished_at)
    return {
        "schema_version": SCHEMA,
        "evaluation_id": f"{study_name(board)}/{name}/{finished}",
        "evaluation_timestamp": finished,
        "retrieved_timestamp": str(int(datetime.fromisoformat(finished).timestamp())),  # the same store, the same bytes
        "source_metadata": {
            "source_name": f"study {study_name(board)}",
            "source_type": "evaluation_run",
            "source_organization_name": "unknown",
            "evaluator_relationship": "first_party",
            "additional_details": {"protocol_version": record.spec.protocol_version, "label_budget": record.spec.label_budget},
        },
        "eval_library": {"name": "kd-weighting-harness", "version": __version__},
        "model_info": {
            "name": f"student of {name}",
            "id": model,
            "additional_details": {
                "deployment_type": "self_deployed",
                "model_availability": "unknown",
                "strategy": selection.strategies[name],
                "student": student.model or "random weights",
                "student_layers": ",".join(map(str, student.layers or ())),
                "student_parameters": str(record.student_parameters),
                "teachers": ", ".join(teacher.name for teacher in record.spec.teachers),
                "verdict_against_plain_kd": board.verdict(label),
            },
        },
        "evaluation_results": results,
    }


def _result(board: Leaderboard, label: int, task: int) -> dict[str, Any]:
    selection = board.selection
    spec = selection.task_spec(selection.tasks[task])
    metric, split = spec.headline_metric, selection.headline_split(spec.name)
    title, least = _METRICS[metric]
    rows = selection.of(selection.labels[label], spec.name)
    scores = [row.score for row in rows if math.isfinite(row.score)]
    number = next((row.record.report[split].rows for row in rows if row.record and split in row.record.report), None)
    details = {"repeats": str(len(scores)), "states": ", ".join(row.state for row in rows)}
    details |= {"trials": ", ".join(row.record.key for row in rows if row.record is not None)}
    uncertainty: dict[str, Any] = {} if number is None else {"num_samples": number}
    low, high = float(board.task_low[label, task]), float(board.task_high[label, task])
    if math.isfinite(low):
        uncertainty |= {
            "confidence_interval": {
                "lower": low, "upper": high, "confidence_level": 0.95,
                "method": "bootstrap over examples, t over repeats" if selection.repeats > 1 else "bootstrap over examples",
            },
            "num_bootstrap_samples": board.test_draws,
        }  # fmt: skip
    return {
        "evaluation_result_id": f"{spec.name}/{metric}",
        "evaluation_name": spec.name,
        "source_data": {
            "dataset_name": spec.source_name,
            "source_type": "other",
            "additional_details": {"split": split, "rows": str(number), "digest": _digest(board, spec.name)},
        },
        "metric_config": {
            "metric_id": metric, "metric_name": title, "metric_kind": metric, "metric_unit": "proportion",
            "lower_is_better": False, "score_type": "continuous", "min_score": least, "max_score": 1.0,
        },
        "score_details": {
            "score": float(board.task_mean[label, task]), "details": details, "uncertainty": uncertainty,
        },
    }  # fmt: skip


def _digest(board: Leaderboard, task: str) -> str:
    """Of the rows that were reported on; empty where the manifest does not say."""
    return str(board.selection.manifest.get("digests", {}).get(task, {}).get(board.selection.headline_split(task), ""))
