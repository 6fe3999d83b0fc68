"""`python -m harness run STUDY`, in short `python -m harness.run STUDY`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cache import cache_folder, cache_in_use
from harness.commands.arguments import add_study
from harness.errors import StoreError
from harness.plan.plan import Plan, load_plan
from harness.records import TrialRecord

if TYPE_CHECKING:
    from harness.store.store import Store
    from harness.watching.console import Console

SOME_TRIALS_FAILED = 3
"""Exit code: the report is written, but not every planned trial has a result."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study(parser)
    parser.add_argument("--engine", choices=["ray", "inline"], help="instead of the study's resources.engine")
    parser.add_argument("--address", help="a running Ray cluster; else $RAY_ADDRESS, else one is started on this machine")
    parser.add_argument("--quiet", action="store_true", help="failures and the final table only")
    parser.add_argument("--dry-run", action="store_true", help="show the plan and its cost, run nothing")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--rerun", action="store_true", help="run trials again that another form of the harness's code has made")
    other.add_argument("--mixed-code", action="store_true", help="take them from the store; the report's caption says so")


def run(arguments: argparse.Namespace) -> int:
    """Run a study to its report, or go on with it: finished trials are taken from the store, failed ones run again.

    Returns the exit code: 0 where every planned trial has a result, else 3.
    """
    overrides = list(arguments.overrides)
    if arguments.engine:
        overrides.append(f"resources.engine={arguments.engine}")
    plan = load_plan(arguments.study, overrides)
    if arguments.dry_run:
        from harness.commands.cost_text import describe

        print(describe(plan))
        return 0
    from harness.commands.cost_text import graph_notes
    from harness.store.store import Store
    from harness.watching.console import Console
    from harness.watching.quiet import quiet_libraries

    store = Store(Path(plan.study.results) / plan.study.name)
    console = Console(quiet=arguments.quiet)
    for warning in (*plan.warnings, *precision_notes(plan), *graph_notes(plan)):
        console.note(f"note: {warning}")
    with store.writing(), cache_in_use(cache_folder()), quiet_libraries(store.path / "logs" / "libraries.log", console.note):
        plan = _settle_code(plan, store, _readable(store), console, arguments)
        _run_trials(plan, store, console, arguments)
        _report(store, console)
    return 0 if console.progress.complete else SOME_TRIALS_FAILED


def precision_notes(plan: Plan) -> list[str]:
    """A line where students are to be trained in bf16 on processors, and this machine's cannot compute in it."""
    cells = [cell for cell in plan.cells if cell.training.precision == "bf16" and not cell.resources.gpus_per_worker]
    if not cells:
        return []
    from harness.training.device import processor_has_bf16

    if processor_has_bf16() is not False:
        return []
    return [
        f"{len(cells)} cells train in bf16 on CPUs, and the processor of this machine has no instructions for it: each step "
        "takes many times as long as in fp32 (--set training.precision=fp32)"
    ]


def _readable(store: Store) -> list[TrialRecord]:
    """The store's records. What is damaged is said before it is run again and nobody can see it any more."""
    records = store.records()
    for damage in store.damaged.values():
        store.event("damaged", path=damage.path, reason=damage.reason)
        print(f"damaged, and run again if it belongs to this study: {damage}", file=sys.stderr)
    return records


def _settle_code(plan: Plan, store: Store, records: list[TrialRecord], console: Console, arguments: argparse.Namespace) -> Plan:
    """What becomes of trials in the store that other code than today's has made. Raises StoreError where nobody has said it."""
    from harness.plan.other_code import made_by_other_code, not_recorded

    if arguments.rerun:
        return replace(plan, rerun_other_code=True)
    if unknown := not_recorded(records):
        console.note(f"note: {unknown} trials of the store do not say which form of the harness made them; they count as made")
    if (others := made_by_other_code(plan, records)) and not arguments.mixed_code:
        first = ", ".join(f"{one.spec.cell_id}/{one.spec.index}" for one in others[:3])
        raise StoreError(
            f"{store.path}: {len(others)} trials of this study were made by another form of the harness's code (training, loss "
            f"terms, look-ahead, models or data), first: {first}. Give --rerun to run them again, --mixed-code to keep them in "
            "one table with the new ones, or `--set results=FOLDER` for a new folder"
        )
    return plan


def _run_trials(plan: Plan, store: Store, console: Console, arguments: argparse.Namespace) -> None:
    from harness.commands.manifest import make_manifest, now
    from harness.engine import engine_for
    from harness.teachers.export_outputs import keep_predictions
    from harness.teachers.prepare import prepare
    from harness.training.nvidia_smi import how_gpus_are_shared
    from harness.watching.event_log import EventLog

    cache = cache_folder()
    started_at = now()
    store.event("started", trials=plan.trials, cells=len(plan.cells))
    shared = {"cache": cache, "results": store.path.resolve(), **_hub_cache(plan)}
    with engine_for(plan, store.path / "logs", arguments.address, shared) as engine:
        prepared = prepare(plan, cache, console, engine.map_tasks, EventLog(store))
        keep_predictions(plan, prepared, cache, store)
        if plan.study.resources.engine == "ray":
            from harness.commands.memory_probe import with_measured_needs

            plan = with_measured_needs(plan, prepared, cache, console, engine.map_tasks)
        if any(0 < cell.resources.gpus_per_worker < 1 for cell in plan.cells) and (how := how_gpus_are_shared()):
            console.note(f"trials that share a GPU of this machine compute {how}")
        manifest = make_manifest(plan, prepared, Path(arguments.study), _command(arguments), started_at)
        store.write_manifest(manifest)
        console.start(plan)
        try:
            engine.run_plan(plan, prepared, store, console, cache)
        finally:
            console.close()
            done, failed = console.progress.done.total(), console.progress.failed.total()
            store.event("ended", done=done, failed=failed, from_store=console.progress.from_store)
        # only now: without `trials`, a report of a run that was stopped shows the latest of what is there
        store.write_manifest({**manifest, "finished_at": now(), "trials": sorted(console.progress.keys)})


def _hub_cache(plan: Plan) -> dict[str, Path]:
    """The hub's cache, where models come from it: the nodes read it, and do not ask the hub themselves."""
    from harness.hub import cache_of_hub
    from harness.models.sources import is_on_hub

    models = [
        plan.study.models.student,
        *(one.checkpoint(task.name) for one in plan.used_teachers for task in plan.tasks if not one.outputs),
    ]
    names = {name for spec in models for name in (spec.model, spec.tokenizer) if name not in (None, "words")}
    return {"hub's cache (HF_HOME)": cache_of_hub()} if any(is_on_hub(str(name)) for name in names) else {}


def _report(store: Store, console: Console) -> None:
    from harness.report import build_report
    from harness.report.terminal import printed

    console.stage("writing the report")
    print(printed(build_report(store.path).board))
    print(f"\ntables, plots and the page: {store.path}")
    progress = console.progress
    if failed := progress.failed.total():
        print(
            f"{failed} trials failed; they count as the majority-class predictor. What went wrong stands in the page and in "
            "the records; the same command runs them again.",
            file=sys.stderr,
        )
    if missing := progress.planned.total() - progress.done.total():
        print(f"{missing} planned trials were not run", file=sys.stderr)


def _command(arguments: argparse.Namespace) -> list[str]:
    """What to type for the same run; the engine and the study's location do not change its results."""
    from harness.commands.manifest import portable

    changes = [part for override in arguments.overrides for part in ("--set", portable_override(override))]
    engine = ["--engine", arguments.engine] if arguments.engine else []
    return ["python", "-m", "harness.run", portable(arguments.study), *changes, *engine]


def portable_override(override: str) -> str:
    """The override with an absolute path made portable."""
    from harness.commands.manifest import portable

    key, equals, value = override.partition("=")
    return key + equals + portable(value)
