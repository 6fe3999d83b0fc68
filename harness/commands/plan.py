"""`python -m harness plan STUDY`."""

from __future__ import annotations

import argparse

from harness.cost import STUDENT_SAMPLES_PER_SECOND, TEACHER_SAMPLES_PER_SECOND, describe
from harness.plan import make_plan
from harness.study_file import read_study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", help="a study file")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY.PATH=VALUE")
    parser.add_argument("--student-samples-per-second", type=float, default=STUDENT_SAMPLES_PER_SECOND, metavar="N")
    parser.add_argument("--teacher-samples-per-second", type=float, default=TEACHER_SAMPLES_PER_SECOND, metavar="N")


def run(arguments: argparse.Namespace) -> int:
    """Print cells, trials and cost. Nothing is run or written."""
    file = read_study(arguments.study, arguments.overrides)
    with file.locating_errors():
        plan = make_plan(file.study, file.base)
    print(describe(plan, arguments.student_samples_per_second, arguments.teacher_samples_per_second))
    return 0
