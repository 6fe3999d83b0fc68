"""The README.md of an exported student: what it is, how it was made, and the study's numbers."""

from __future__ import annotations

from typing import Any

import yaml

from harness.records import TrialRecord

_USE = """```python
from transformers import pipeline

classify = pipeline("text-classification", model="this folder")
classify({example}, truncation=True)
```"""


def model_card(record: TrialRecord, commit: str, origin: str) -> str:
    """Markdown with the hub's front matter. `commit`: of the harness; `origin`: how these very weights came about, in words.

    There is no `license`: that depends on the data and on the weights that the student started from.
    """
    spec, task = record.spec, record.spec.task
    recipe = spec.training
    example = '"a text"' if len(task.text) == 1 else '{"text": "a text", "text_pair": "another"}'
    settings = ", ".join(f"{name} {value}" for name, value in spec.settings.items()) or "none"
    teachers = ", ".join(f"{teacher.name} ({_source(teacher.model, teacher.config)})" for teacher in spec.teachers)
    return "\n".join(
        [
            "---",
            yaml.safe_dump(_front_matter(record), sort_keys=False, allow_unicode=True).rstrip(),
            "---",
            "",
            f"# {task.name}: a student distilled with {spec.label}",
            "",
            f"{_source(spec.student.model, spec.student.config)}, with the classes {', '.join(task.labels)}.",
            "",
            _USE.replace("{example}", example),
            "",
            *_scores(record),
            "",
            f"Epoch {(record.best_epoch or 0) + 1} and the trial were chosen on rows apart ({task.headline_metric} "
            f"{record.objective or 0.0:.4f}); the splits above were read once, after training.",
            "",
            "## How it was made",
            "",
            f"- Study `{spec.study}`, {spec.cell_id}, trial {spec.index}, key `{record.key}`. "
            f"Protocol {spec.protocol_version}, harness at commit {commit}. {origin[0].upper()}{origin[1:]}.",
            f"- Strategy `{spec.strategy}`; settings: {settings}.",
            f"- Teachers: {teachers}.",
            f"- {recipe.epochs} epochs, batches of {recipe.batch_size}, learning rate {recipe.learning_rate:g}, temperature "
            f"{recipe.temperature:g}, at most {spec.data.max_length} tokens, trained and scored in {record.cost.precision}.",
            f"- Inputs: {' and '.join(task.text)}. All that determines the result stands in `harness.json`.",
            "",
        ]
    )


def _front_matter(record: TrialRecord) -> dict[str, Any]:
    spec, task = record.spec, record.spec.task
    results = [
        {
            "task": {"type": "text-classification"},
            "dataset": {"name": task.source_name, "type": spec.data.dataset or task.source_name, "split": split},
            "metrics": [{"type": name, "value": round(value, 4)} for name, value in score.metrics.items()],
        }
        for split, score in record.report.items()
    ]
    return {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["knowledge-distillation"],
        "model-index": [{"name": f"{spec.study}-{task.name}-{spec.label}", "results": results}],
    }


def _scores(record: TrialRecord) -> list[str]:
    """A Markdown table: the student, each teacher, and the majority class, on every report split."""
    metrics = record.spec.task.metrics
    rows = [("this student", record.report)]
    rows += [(f"teacher {t.name}", scores) for t, scores in zip(record.spec.teachers, record.teacher_report, strict=False)]
    rows.append(("majority class", record.majority))
    lines = [f"| | {' | '.join(['rows', *metrics])} |", "|---" * (2 + len(metrics)) + "|"]
    for split in record.report:
        for who, scores in rows:
            if split in scores:
                values = [str(scores[split].rows), *(f"{scores[split].metrics[name]:.4f}" for name in metrics)]
                lines.append(f"| {split}: {who} | {' | '.join(values)} |")
    return lines


def _source(model: str | None, config: dict[str, Any] | None) -> str:
    if model is None:
        return f"{(config or {}).get('model_type', '')} model from random weights".strip()
    return model.rstrip("/").rsplit("/", 1)[-1] if model.startswith(("/", "./", "../", "~", "package:")) else model
