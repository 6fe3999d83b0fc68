"""`python -m harness gc [RESULTS ...]`."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from harness.cache import cache_folder, cache_in_use
from harness.commands.arguments import is_results, results_folder
from harness.errors import StoreError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", nargs="*", help="result folders; by default those in results/")
    parser.add_argument(
        "--cache", action="store_true", help="also rows, tokens and teachers in the cache that none of these folders refers to"
    )
    parser.add_argument("--delete", action="store_true", help="remove them; otherwise they are only listed")


def run(arguments: argparse.Namespace) -> int:
    """List, or remove, what nothing refers to. Refuses (StoreError) where a study is running in one of the folders or, with
    `--cache`, anywhere on the cache. Results are never removed.
    """
    from tabulate import tabulate

    from harness.store.garbage import garbage_of_cache, garbage_of_store
    from harness.store.store import Store

    given = [results_folder(name) for name in arguments.results]
    stores = [Store(folder) for folder in given or [path for path in sorted(Path("results").glob("*")) if is_results(path)]]
    if arguments.cache and not stores:
        raise StoreError(
            "there is no result folder in results/: name those whose studies use the cache, or all of it is garbage"
        )
    cache = cache_folder()
    with ExitStack() as stack:
        for store in stores:
            stack.enter_context(store.writing())
        found = [one for store in stores for one in garbage_of_store(store)]
        if arguments.cache:
            stack.enter_context(cache_in_use(cache, alone=True))
            found += garbage_of_cache(cache, stores)
        rows = [[f"{one.bytes / 2**20:,.1f} MiB", one.reason, one.path] for one in found]
        total = sum(one.bytes for one in found) / 2**20
        if arguments.delete:
            for one in found:
                one.delete()
    if rows:
        print(tabulate(rows, tablefmt="plain", disable_numparse=True))
    print(f"{len(rows)} things, {total:,.1f} MiB, {'removed' if arguments.delete else 'would be removed by --delete'}")
    return 0
