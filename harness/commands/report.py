"""`python -m harness report RESULTS`, in short `python -m harness.report RESULTS`."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands.arguments import add_results, results_folder
from harness.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_results(parser)
    parser.add_argument(
        "--readme", type=Path, metavar="FILE", help="a README whose blocks `<!-- report RESULTS: ... -->` are made anew"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write tables, plots and the page, and print the leaderboard."""
    folder = results_folder(arguments.results)
    if arguments.readme is not None and not arguments.readme.is_file():
        raise UserError(f"--readme {arguments.readme}: no such file")
    from harness.report import build_report

    print(build_report(folder, arguments.readme).text)
    return 0
