"""`python -m harness reproduce RESULTS ROW`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cache import cache_folder, cache_in_use
from harness.commands.arguments import results_folder
from harness.commands.train_again import add_row, add_training, commit_of, prepare_again, with_todays_code
from harness.training.hooks import StoppedEarly

if TYPE_CHECKING:
    from harness.plan.prepared import PreparedTask
    from harness.records import EpochRecord, TrialRecord
    from harness.report.find_row import Reproduced

DIFFERENT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_row(parser)
    add_training(parser)
    parser.add_argument("--tolerance", type=float, default=0.0, help="differences up to this count as the same")


def run(arguments: argparse.Namespace) -> int:
    """Train one row again, in this process; exit code 1 where the number does not come out the same.

    A trial that its search stopped early is trained up to the same epoch. One that failed is to fail again with the same error.
    """
    from harness.report.find_row import find_record
    from harness.store.store import Store

    results = results_folder(arguments.results)
    stored = find_record(results, arguments.row)
    store = Store(results)
    cache = cache_folder()
    with cache_in_use(cache):
        found = _again(stored, prepare_again(stored, store, cache, arguments), cache, arguments.tolerance)
    print(found.text)
    if not found.same:
        print(f"The harness may have changed since, which was commit {commit_of(store)}, or the processor.")
    return 0 if found.same else DIFFERENT


def _again(stored: TrialRecord, ready: PreparedTask, cache: Path, tolerance: float) -> Reproduced:
    from harness.report.find_row import compare_runs
    from harness.training.failures import classify, failed_record
    from harness.training.trial import train_trial

    def stop_where_it_was_stopped(epoch: EpochRecord, _: Any) -> None:
        if epoch.epoch + 1 == stored.stopped_after_epoch:
            raise StoppedEarly

    spec = with_todays_code(stored.spec)
    try:
        again = train_trial(spec, cache, on_epoch=stop_where_it_was_stopped).record
    except Exception as error:  # what was stored may be a failure, too; the comparison says it
        again = failed_record(spec, classify(error), ready.majority)
    return compare_runs(stored, again, tolerance)
