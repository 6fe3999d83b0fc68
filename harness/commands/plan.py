"""`python -m harness plan STUDY`."""

from __future__ import annotations

import argparse

from harness.commands.arguments import add_study, positive, results_folder
from harness.errors import UserError
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
    parser.add_argument(
        "--models", action="store_true",
        help="build every model without its weights, too, to find those that cannot be used (may ask the hub)",
    )  # fmt: skip
    parser.add_argument("--detect", type=positive, metavar="POINTS", help="what the study needs to see such a difference")
    parser.add_argument(
        "--from", dest="stores", nargs="+", type=results_folder, metavar="RESULTS",
        help="with --detect: earlier results that tell how much differences vary; else the study's own and its pilot's",
    )  # fmt: skip
    parser.add_argument(
        "--pilot", type=int, metavar="N", help="with --detect: the command for a pilot of N repeats, and its cost"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print cells, trials and cost. Nothing is run or written."""
    from harness.commands.cost_text import describe

    plan = load_plan(arguments.study, arguments.overrides)
    if arguments.models:
        from harness.cache import cache_folder
        from harness.teachers.model_checks import check_shapes

        print(f"all {check_shapes(plan, cache_folder())} models can be built")
    if arguments.detect is not None:
        from harness.commands.power_text import describe_power

        rates = (arguments.student_samples_per_second, arguments.teacher_samples_per_second)
        print(describe_power(plan, arguments.detect, arguments.stores or (), *rates, arguments.pilot))
        return 0
    if arguments.stores or arguments.pilot:
        raise UserError("--from and --pilot go with --detect POINTS")
    print(describe(plan, arguments.student_samples_per_second, arguments.teacher_samples_per_second))
    return 0
