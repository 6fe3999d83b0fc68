"""`python -m harness pack RESULTS`."""

from __future__ import annotations

import argparse

from harness.commands.arguments import add_results, results_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_results(parser)


def run(arguments: argparse.Namespace) -> int:
    """Pack a store. A study may be run on in it: new trials lie beside the pack, and packing again takes them in."""
    from harness.store.packing import pack_store
    from harness.store.store import Store

    folder = results_folder(arguments.results)
    print(f"{pack_store(Store(folder))}, in {folder / 'pack'}")
    return 0
