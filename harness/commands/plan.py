"""`python -m harness plan STUDY`."""

from __future__ import annotations

import argparse

from harness.commands.arguments import add_study, positive
from harness.plan.cost import STUDENT_SAMPLES_PER_SECOND, TEACHER_SAMPLES_PER_SECOND
from harness.plan.plan import load_plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study(parser)
    for model, default in (("student", STUDENT_SAMPLES_PER_SECOND), ("teacher", TEACHER_SAMPLES_PER_SECOND)):
        parser.add_argument(
            f"--{model}-samples-per-second",
            type=positive,
            default=default,
            metavar="N",
            help=f"{model} training samples a second on one of your GPUs; without it, {default:g} is assumed",
        )


def run(arguments: argparse.Namespace) -> int:
    """Print cells, trials and cost. Nothing is run or written."""
    from harness.commands.cost_text import describe

    plan = load_plan(arguments.study, arguments.overrides)
    print(describe(plan, arguments.student_samples_per_second, arguments.teacher_samples_per_second))
    return 0
