"""`python -m harness compare A B`."""

from __future__ import annotations

import argparse

from harness.commands.arguments import results_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", help="a strategy as the table calls it, or a result folder")
    parser.add_argument("second", help="likewise")
    parser.add_argument("--results", help="the result folder, where two strategies are compared")
    parser.add_argument("--task", help="one task instead of all")


def run(arguments: argparse.Namespace) -> int:
    """Print the paired comparison and its verdict."""
    from harness.report.compare import compare

    if arguments.results is not None:
        results_folder(arguments.results)
    print(compare(arguments.first, arguments.second, results=arguments.results, task=arguments.task))
    return 0
