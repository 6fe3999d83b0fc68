"""`python -m harness report RESULTS`, in short `python -m harness.report RESULTS`."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands.arguments import add_results, results_folder
from harness.errors import UserError
from harness.study.schema_errors import nearest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_results(parser)
    parser.add_argument(
        "--readme", type=Path, metavar="FILE", help="a README whose blocks `<!-- report RESULTS: ... -->` are made anew"
    )
    parser.add_argument("--strategies", nargs="+", metavar="NAME", help="print these alone; the files hold all")


def run(arguments: argparse.Namespace) -> int:
    """Write tables, plots and the page, and print the leaderboard."""
    folder = results_folder(arguments.results)
    if arguments.readme is not None and not arguments.readme.is_file():
        raise UserError(f"--readme {arguments.readme}: no such file")
    from harness.report import build_report
    from harness.report.terminal import printed

    report = build_report(folder, arguments.readme)
    labels = report.board.selection.labels
    for label in arguments.strategies or ():
        if label not in labels:
            near = nearest(label, labels)
            raise UserError(f"--strategies {label}: no strategy of {folder}.{near} There are {', '.join(labels)}")
    print(printed(report.board, arguments.strategies or ()))
    return 0
