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
    parser.add_argument(
        "--metrics",
        type=lambda text: [name for name in text.split(",") if name],
        default=[],
        metavar="NAME,NAME",
        help="further columns from stored probabilities: nll, brier, ece, macro_f1, agreement, kl; the files hold all",
    )
    parser.add_argument(
        "--every-eval-ever",
        type=Path,
        metavar="FOLDER",
        help="also write a document for each strategy in the schema of every_eval_ever 0.3 into this folder",
    )
    parser.add_argument("--strategies", nargs="+", metavar="NAME", help="print these alone; the files hold all")


def run(arguments: argparse.Namespace) -> int:
    """Write tables, plots and the page, and print the leaderboard."""
    folder = results_folder(arguments.results)
    if arguments.readme is not None and not arguments.readme.is_file():
        raise UserError(f"--readme {arguments.readme}: no such file")
    from harness.report import build_report
    from harness.report.every_eval_ever import refuse_files, write_documents
    from harness.report.terminal import printed
    from harness.stats.measures import MEASURES

    for name in arguments.metrics:
        if name not in MEASURES:
            raise UserError(f"--metrics {name}: no measure.{nearest(name, MEASURES)} There are {', '.join(MEASURES)}")
    if arguments.every_eval_ever is not None:
        refuse_files(arguments.every_eval_ever)  # before the minute's work
    report = build_report(folder, arguments.readme)
    labels = report.board.selection.labels
    for label in arguments.strategies or ():
        if label not in labels:
            near = nearest(label, labels)
            raise UserError(f"--strategies {label}: no strategy of {folder}.{near} There are {', '.join(labels)}")
    for name in arguments.metrics:
        if name not in report.board.measures:
            whose = " of its teachers" if MEASURES[name].of_teacher and report.board.measures else ""
            raise UserError(f"--metrics {name}: not stored: {folder} keeps no probabilities{whose}")
    if arguments.every_eval_ever is not None:
        write_documents(report.board, arguments.every_eval_ever)
    print(printed(report.board, arguments.strategies or (), arguments.metrics))
    return 0
