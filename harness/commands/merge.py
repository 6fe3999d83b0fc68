"""`python -m harness merge SOURCE... --into TARGET`."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands.arguments import results_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="+", help="result folders of the same study, from several machines")
    parser.add_argument("--into", required=True, metavar="TARGET", help="the folder that is to hold them all")


def run(arguments: argparse.Namespace) -> int:
    """Merge stores; conflicts are named, and what the target holds is kept."""
    from harness.store.merge import merge_stores

    print(merge_stores([results_folder(source) for source in arguments.sources], Path(arguments.into)).text())
    return 0
