"""What a table has to say of teachers that were trained elsewhere: on which rows is not known."""

from __future__ import annotations

from typing import Any

from harness.records import Score
from harness.report.selection import Selection


def no_references(selection: Selection) -> list[str]:
    """Names of the teachers that the study keeps out of the references, as the manifest has it now."""
    return [str(teacher.get("name")) for teacher in _teachers(selection) if teacher.get("reference") is False]


def trained_elsewhere(selection: Selection) -> str:
    """A sentence with their scores on the rows that they were to be held out of; empty where the study has none."""
    names = [str(one.get("name")) for one in _teachers(selection) if one.get("fine_tuned") or one.get("outputs")]
    if not names:
        return ""
    said = []
    for name in names:
        found = [f"{task} {text}" for task in selection.tasks if (text := _scores(selection, task, name))]
        said.append(f"{name} ({'; '.join(found)})" if found else name)
    return (
        f"Trained elsewhere, and may have seen meta, select and report rows: {', '.join(said)}. A score on the training rows "
        "that is far above the others speaks for it."
    )


def _scores(selection: Selection, task: str, name: str) -> str:
    """E.g. "98.1 on fit, 60.2 on select, 59.8 on validation", in points of the headline metric."""
    for record in selection.records:
        if record.spec.task.name != task:
            continue
        for teacher, scores in zip(record.spec.teachers, record.teacher_report, strict=False):
            if teacher.name == name:
                metric = record.spec.task.headline_metric
                parts = ("fit", "select", record.spec.data.headline_split)
                return ", ".join(f"{_points(scores[part], metric)} on {part}" for part in parts if part in scores)
    return ""


def _points(score: Score, metric: str) -> str:
    return f"{100 * score.metrics[metric]:.1f}"


def _teachers(selection: Selection) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = selection.manifest.get("study", {}).get("models", {}).get("teachers", [])
    return found
