"""`python -m harness check NAME|FILE`."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target", help="a strategy's name, e.g. wsl or 'shuffled(rw_kd)', a loss term's, or a Python file that registers some"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the conformance tests; exit code 1 where one fails."""
    from harness.conformance import check

    report = check(arguments.target)
    print(report)
    return 0 if report.passed else 1
