"""`python -m harness prefetch STUDY`."""

from __future__ import annotations

import argparse

from harness.commands.arguments import add_study
from harness.plan.plan import load_plan
from harness.study.schema import ModelSpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study(parser)


def run(arguments: argparse.Namespace) -> int:
    """Read every task, model and tokenizer once, so that the hub's caches hold them. Raises DataError, ModelError."""
    from harness.data.source import load_task
    from harness.models.sources import model_digest, model_directory

    plan = load_plan(arguments.study, arguments.overrides)
    for task in plan.tasks:
        data = load_task(task, plan.study.data_for(task.name), plan.base)
        splits = ", ".join(f"{split} {len(rows):,}" for split, rows in data.report.items())
        print(f"{task.name}: train {len(data.train):,}, {splits} rows from {data.origin}")
    models: list[tuple[str, ModelSpec]] = [("student", plan.study.models.student)]
    for teacher in plan.used_teachers:
        if teacher.fine_tuned is not None:
            models += [(f"{teacher.name} for {task.name}", teacher.checkpoint(task.name)) for task in plan.tasks]
        elif teacher.outputs is None:
            models.append((teacher.name, teacher))
    for name, spec in models:
        print(f"{name}: {spec.model or 'random weights from its config'} (digest {model_digest(spec)})")
        if spec.tokenizer not in (None, "words"):
            model_directory(str(spec.tokenizer))
            print(f"{name}'s tokenizer: {spec.tokenizer}")
    return 0
