"""`python -m harness report RESULTS`, in short `python -m harness.report RESULTS`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", help="a result folder, e.g. results/glue_minilm")


def run(arguments: argparse.Namespace) -> int:
    """Write tables, plots and the page, and print the leaderboard."""
    from harness.report import build_report, leaderboard_text

    build_report(Path(arguments.results))
    print(leaderboard_text(Path(arguments.results)))
    return 0
