"""`python -m harness unpack RESULTS`."""

from __future__ import annotations

import argparse

from harness.commands.arguments import add_results, results_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_results(parser)


def run(arguments: argparse.Namespace) -> int:
    """Give every trial of a packed store its files again."""
    from harness.store.packing import unpack_store
    from harness.store.store import Store

    folder = results_folder(arguments.results)
    print(f"{unpack_store(Store(folder))}, in {folder}")
    return 0
