"""`python -m harness status RESULTS`."""

from __future__ import annotations

import argparse
import time
from collections import Counter

from harness.commands.arguments import add_results, results_folder
from harness.errors import StoreError, printable
from harness.store.run_state import run_state
from harness.store.store import Store
from harness.training.sign_of_life import last_sign
from harness.watching.status_text import SILENT_SECONDS, describe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_results(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print how far the study is and what runs now, from its store alone."""
    from tabulate import tabulate

    store = Store(results_folder(arguments.results))
    manifest = store.manifest()
    if not manifest:
        if trials := len(store.keys()):
            raise StoreError(f"{arguments.results} has lost its manifest.json; {trials} trials are there. Run the study again")
        if (state := run_state(store.events(last_run=True))) is None:
            raise StoreError(f"{arguments.results} has no manifest.json: the study has not got past preparing its data yet")
        print(f"preparing, started {state.started.isoformat(timespec='seconds')}")
        print("\n".join(describe(state, store.is_held(), 0)))
        return 0
    planned: Counter[str] = Counter()
    sizes: dict[tuple[str, str, int], tuple[int, int]] = {}
    for cell in manifest["planned_cells"]:
        finals = cell.get("final_repeats", 0)
        planned[cell["task"]] += cell["trials"] + finals
        sizes[cell["task"], cell["label"], cell["repeat"]] = (cell["trials"], finals)
    # a store may hold trials of an earlier form of the study: a place in the plan counts once
    ended: dict[tuple[str, str, int, str, int], bool] = {}
    for record in store.records():
        spec = record.spec
        final = spec.purpose == "final"
        trials, finals = sizes.get((spec.task.name, spec.label, 0 if final else spec.repeat), (0, 0))
        if spec.repeat < finals if final else spec.index < trials:
            place = (spec.task.name, spec.label, spec.repeat, spec.purpose, 0 if final else spec.index)
            ended[place] = ended.get(place, False) or record.status != "failed"
    done = Counter(place[0] for place in ended)
    failed = Counter(place[0] for place, ok in ended.items() if not ok)
    rows = [[task, done[task], count, failed[task] or ""] for task, count in planned.items()]
    rows.append(["all", done.total(), planned.total(), failed.total() or ""])
    print(tabulate(rows, ["task", "done", "planned", "failed"]))
    finished = manifest.get("finished_at")
    print(f"started {manifest['started_at']}, {f'finished {finished}' if finished else 'not finished'}")
    state = run_state(store.events(last_run=True))
    if state is not None:
        signs = {key: last_sign(store.path / "running" / key) for key in state.running}
        silent = {key: time.time() - sign for key, sign in signs.items() if sign is not None}
        for line in describe(state, store.is_held(), planned.total() - done.total(), silent=silent):
            print(printable(line))
        minutes = manifest["study"].get("resources", {}).get("stall_minutes")
        if minutes is not None and any(seconds > SILENT_SECONDS for seconds in silent.values()):
            print(f"a trial that is silent for {minutes:g} minutes is ended and tried again (`resources.stall_minutes`)")
    for damage in store.damaged.values():
        print(f"damaged: {damage}")
    return 0
