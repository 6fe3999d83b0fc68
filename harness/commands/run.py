"""`python -m harness run STUDY`, in short `python -m harness.run STUDY`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.cache import cache_folder
from harness.console import Console
from harness.plan import Plan, make_plan
from harness.quiet import quiet_libraries
from harness.store import Store
from harness.study_file import read_study

SOME_TRIALS_FAILED = 3
"""Exit code: everything ran and the report is written, but some trials are recorded as failed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", help="a study file, e.g. studies/quickstart.yaml")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY.PATH=VALUE")
    parser.add_argument("--engine", choices=["ray", "inline"], help="instead of the study's resources.engine")
    parser.add_argument("--address", help="a running Ray cluster; else $RAY_ADDRESS, else one is started on this machine")
    parser.add_argument("--quiet", action="store_true", help="errors and the final table only")
    parser.add_argument("--dry-run", action="store_true", help="show the plan and its cost, run nothing")


def run(arguments: argparse.Namespace) -> int:
    """Run a study to its report. Returns the exit code."""
    overrides = list(arguments.overrides)
    if arguments.engine:
        overrides.append(f"resources.engine={arguments.engine}")
    file = read_study(arguments.study, overrides)
    with file.locating_errors():
        plan = make_plan(file.study, file.base)
    if arguments.dry_run:
        from harness.cost import describe

        print(describe(plan))
        return 0
    store = Store(Path(file.study.results) / file.study.name)
    quiet_libraries(store.path / "logs" / "libraries.log")
    console = Console(quiet=arguments.quiet)
    for warning in plan.warnings:
        console.note(f"note: {warning}")
    with store.writing():
        _run_plan(plan, store, console, arguments, file.path)
    return _finish(store)


def _run_plan(plan: Plan, store: Store, console: Console, arguments: argparse.Namespace, study_file: Path) -> None:
    from harness.engine import engine_for
    from harness.manifest import make_manifest, now
    from harness.prepare import prepare

    cache = cache_folder()
    with engine_for(plan, store.path / "logs", arguments.address) as engine:
        prepared = prepare(plan, cache, console, engine.map_tasks)
        manifest = make_manifest(
            plan,
            prepared,
            study_file,
            ["python", "-m", "harness", *sys.argv[1:]]
            if sys.argv[1:2] == ["run"]
            else ["python", "-m", "harness.run", *sys.argv[1:]],
        )
        store.write_manifest(manifest)
        store.event("started", trials=plan.trials)
        console.start(plan)
        try:
            engine.run_plan(plan, prepared, store, console, cache)
        finally:
            console.close()
            store.event("ended")
        store.write_manifest({**manifest, "finished_at": now()})


def _finish(store: Store) -> int:
    from harness.report import build_report, leaderboard_text

    for damage in store.damaged.values():
        print(f"damaged and run again: {damage}", file=sys.stderr)
    build_report(store.path)
    print(leaderboard_text(store.path))
    failed = [record for record in store.records() if record.status == "failed"]
    if failed:
        print(
            f"{len(failed)} trials failed and count as the majority-class predictor; see {store.path}/index.html",
            file=sys.stderr,
        )
        return SOME_TRIALS_FAILED
    return 0
