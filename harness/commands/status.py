"""`python -m harness status RESULTS`."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from harness.errors import StoreError
from harness.store import Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", help="a result folder, e.g. results/quickstart")


def run(arguments: argparse.Namespace) -> int:
    """Print how far the study is, from its store alone."""
    from tabulate import tabulate

    store = Store(Path(arguments.results))
    manifest = store.manifest()
    if not manifest:
        raise StoreError(f"{arguments.results}: no manifest.json; this is no result folder, or the study has not prepared yet")
    planned: Counter[str] = Counter()
    for cell in manifest["planned_cells"]:
        planned[cell["task"]] += cell["trials"] + cell["final_repeats"]
    done: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for record in store.records():
        done[record.spec.task.name] += 1
        failed[record.spec.task.name] += record.status == "failed"
    rows = [[task, done[task], count, failed[task] or ""] for task, count in planned.items()]
    print(
        tabulate([*rows, ["all", done.total(), planned.total(), failed.total() or ""]], ["task", "done", "planned", "failed"])
    )
    print(
        f"started {manifest['started_at']}, "
        + (f"finished {manifest['finished_at']}" if manifest["finished_at"] else "not finished")
    )
    for damage in store.damaged.values():
        print(f"damaged: {damage}")
    return 0
