"""`python -m harness report RESULTS`, in short `python -m harness.report RESULTS`."""

from __future__ import annotations

import argparse

from harness.commands.arguments import add_results, results_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_results(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write tables, plots and the page, and print the leaderboard."""
    folder = results_folder(arguments.results)
    from harness.report import build_report

    print(build_report(folder).text)
    return 0
