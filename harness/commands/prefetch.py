"""`python -m harness prefetch STUDY`."""

from __future__ import annotations

import argparse

from harness.plan import make_plan
from harness.study_file import read_study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", help="a study file")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY.PATH=VALUE")


def run(arguments: argparse.Namespace) -> int:
    """Read every task and every model once, so that the hub's caches hold them."""
    from harness.data.source import load_task
    from harness.sources import model_digest

    file = read_study(arguments.study, arguments.overrides)
    with file.locating_errors():
        plan = make_plan(file.study, file.base)
    for task in plan.tasks:
        data = load_task(task, plan.study.data, plan.base)
        print(f"{task.name}: {len(data.train)} training rows from {data.origin}")
    for name, spec in [("student", plan.study.models.student), *((t.name, t) for t in plan.study.models.teachers)]:
        print(f"{name}: {spec.model or 'from its config'}, digest {model_digest(spec)}")
    return 0
