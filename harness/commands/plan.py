"""`python -m harness plan STUDY`."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from harness.commands.arguments import add_study, at_least_two, positive, results_folder
from harness.errors import UserError
from harness.plan.cost import STUDENT_SAMPLES_PER_SECOND, TEACHER_SAMPLES_PER_SECOND, cell_cost, read_sizes
from harness.plan.plan import Plan, load_plan

if TYPE_CHECKING:
    from harness.commands.memory_probe import Kind


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study(parser)
    for model, default in (("student", STUDENT_SAMPLES_PER_SECOND), ("teacher", TEACHER_SAMPLES_PER_SECOND)):
        parser.add_argument(
            f"--{model}-samples-per-second",
            type=positive,
            default=default,
            metavar="N",
            help=f"{model} training samples a second on one of your GPUs; without it, {default:g} is assumed",
        )
    parser.add_argument(
        "--models", action="store_true",
        help="build every model without its weights, too, to find those that cannot be used (may ask the hub)",
    )  # fmt: skip
    parser.add_argument(
        "--measure", action="store_true",
        help="measure memory and a step of each kind of trial here (no teacher is trained), and say how many fit",
    )  # fmt: skip
    parser.add_argument("--detect", type=positive, metavar="POINTS", help="what the study needs to see such a difference")
    parser.add_argument(
        "--from", dest="stores", action="append", type=results_folder, metavar="RESULTS",
        help="with --detect: earlier results that tell how much differences vary, repeatable; else the study's and its pilot's",
    )  # fmt: skip
    parser.add_argument(
        "--pilot", type=at_least_two, metavar="N", help="with --detect: the command for a pilot of N repeats, and its cost"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print cells, trials and cost. Nothing is run or written."""
    from harness.commands.cost_text import describe

    plan = load_plan(arguments.study, arguments.overrides)
    if arguments.models:
        from harness.cache import cache_folder
        from harness.teachers.model_checks import check_shapes

        print(f"all {check_shapes(plan, cache_folder())} models can be built")
    if arguments.detect is not None:
        if arguments.measure:
            raise UserError("--measure and --detect are two questions; give one of them")
        from harness.commands.power_text import describe_pilot, describe_power

        rates = (arguments.student_samples_per_second, arguments.teacher_samples_per_second)
        if arguments.pilot is not None:
            given = [arguments.study, *(word for override in arguments.overrides for word in ("--set", override))]
            print(describe_pilot(plan, shlex.join(given), arguments.pilot, *rates))
        else:
            print(describe_power(plan, arguments.detect, arguments.stores or (), *rates))
        return 0
    if arguments.stores or arguments.pilot is not None:
        raise UserError("--from and --pilot go with --detect POINTS")
    print(describe(plan, arguments.student_samples_per_second, arguments.teacher_samples_per_second))
    return measure_here(plan) if arguments.measure else 0


def measure_here(plan: Plan) -> int:
    """Measure what `resources.packing: measured` measures when the study runs, and say what it means. No teacher is trained.

    Returns the exit code: 1 where a kind of trial could not be measured. Raises UserError where trials are to have a GPU and
    there is none, and whatever data and models that cannot be used raise.
    """
    import torch

    from harness.cache import cache_folder, cache_in_use
    from harness.commands.memory_probe import in_own_processes, measure
    from harness.teachers.prepare import prepare
    from harness.watching.console import Console

    on_gpus = {cell.task.name: cell.resources.gpus_per_worker for cell in plan.cells if cell.resources.gpus_per_worker}
    if on_gpus and not torch.cuda.is_available():
        task, gpus = next(iter(on_gpus.items()))
        raise UserError(
            f"gpus_per_worker is {gpus:g} for {task}, and PyTorch finds no GPU here: measure where there is one, or trials on "
            "a CPU with `--set resources.gpus_per_worker=0`"
        )
    print()
    cache, console = cache_folder(), Console()
    with cache_in_use(cache):
        prepared = prepare(plan, cache, console, make_teachers=False)
        found = measure(plan, plan.cells, prepared, cache, console, in_own_processes)
    if lacking := [f"{name} of {task}" for task, ready in prepared.items() for name in ready.teacher_errors]:
        print(f"Teachers that are not made yet, for which random outputs of their shapes stood in: {', '.join(lacking)}.")
    for on_gpu in (True, False):
        own = [kind for kind in found if (kind.job.gpus > 0) is on_gpu]
        if own:
            lines = _on_gpus(own) if on_gpu else _on_processors(own)
            print("\n" + "\n".join([*lines, _to_write(plan, own, on_gpu), *_seconds(plan, own)]))
    return 0 if sum(len(kind.cells) for kind in found) == len(plan.cells) else 1


def _on_gpus(kinds: Sequence[Kind]) -> list[str]:
    from harness.commands.memory_probe import CONTEXT_BYTES
    from harness.training.nvidia_smi import how_gpus_are_shared

    def figures(kind: Kind) -> list[str]:
        own, alone = kind.need.context_bytes, kind.cells[0].resources.workers == 1
        return [
            f"{kind.need.peak_bytes / 2**30:.2f}",
            "?" if own is None else f"{own / 2**30:.2f}",
            _step(kind),
            f"{1 / kind.resources.gpus_per_worker:.0f}" if alone else "1 rank",
        ]

    one = kinds[0].need
    lines = [
        _table(kinds, ["peak of the\nallocator", "CUDA's\nown", "seconds\na step", "trials\na GPU"], figures),
        f"In GiB, a worker, on its longest batch; a GPU has {one.total_bytes / 2**30:.2f} ({one.device}).",
    ]
    if any(kind.need.context_bytes is None for kind in kinds):
        lines.append(f"nvidia-smi says nothing of a process here: CUDA's own is taken as {CONTEXT_BYTES / 2**30:.2f} GiB.")
    if how := how_gpus_are_shared():
        lines.append(f"Trials that share a GPU of this machine compute {how}.")
    return lines


def _on_processors(kinds: Sequence[Kind]) -> list[str]:
    total = kinds[0].need.total_bytes

    def figures(kind: Kind) -> list[str]:
        taken = kind.resources.memory_per_worker * kind.resources.workers
        return [f"{kind.need.peak_bytes / 2**30:.2f}", _step(kind), str(total // taken)]

    return [
        _table(kinds, ["peak", "seconds\na step", "trials\nat once"], figures),
        f"In GiB, a worker, on its longest batch, libraries included; this machine has {total / 2**30:.2f}, processors not "
        "counted.",
    ]


def _step(kind: Kind) -> str:
    return "?" if kind.need.step_seconds is None else f"{kind.need.step_seconds:.2g}"


def _seconds(plan: Plan, kinds: Sequence[Kind]) -> list[str]:
    """What the measured steps mean for the study."""
    from harness.watching.status_text import duration

    rows, _ = read_sizes(plan)
    costs = [(kind.need.step_seconds, cell_cost(plan, cell, rows.get(cell.task.name))) for kind in kinds for cell in kind.cells]
    known = [(seconds, cost.steps) for seconds, cost in costs if seconds is not None and cost is not None]
    if not known:
        return []
    total = duration(sum(seconds * steps for seconds, steps in known))
    return [
        "The seconds are of one warm step on the longest batch, alone: most batches are shorter, and trials beside each other "
        f"slower. At them {sum(steps for _, steps in known):,} planned steps take {total}, one trial after another."
    ]


def _table(kinds: Sequence[Kind], headers: Sequence[str], figures: Callable[[Kind], Sequence[str]]) -> str:
    """Kinds of a task whose figures are the same share a row."""
    from tabulate import tabulate

    rows: dict[tuple[str, ...], list[str]] = {}
    for kind in kinds:
        same = (kind.cells[0].task.name, str(kind.job.spec.training.batch_size), *figures(kind))
        rows.setdefault(same, []).append(kind.strategies)
    return tabulate(
        [(task, ", ".join(names), *others) for (task, *others), names in rows.items()],
        ["task", "strategies", "batch", *headers],
        disable_numparse=True,
        colalign=["left", "left", "right", *["right" for _ in headers]],
        maxcolwidths=[None, 28, None, *[None for _ in headers]],
    )


def _to_write(plan: Plan, kinds: Sequence[Kind], on_gpu: bool) -> str:
    """What the study says, or should, for the largest kind to fit."""
    from harness.commands.memory_probe import MARGIN

    if plan.study.resources.engine == "inline":
        return "The engine `inline` runs one trial at a time: with `ray`, so many fit beside each other."
    if (stacked := plan.study.resources.stacked) > 1:
        return f"These are of single trials: the {stacked} that are stacked in a process take up to {stacked} times as much."
    field, what = ("gpus_per_worker", "share of a GPU") if on_gpu else ("memory_per_worker", "memory")
    if all(cell.resources.packing == "measured" for kind in kinds for cell in kind.cells):
        return f"As resources.packing is `measured`, `run` gives each kind its own {what}, with {MARGIN:.0%} to spare."
    largest = max(getattr(kind.resources, field) for kind in kinds)
    return (
        f"For the study: `--set resources.{field}={largest}`, enough for all of these with {MARGIN:.0%} to spare, or "
        f"`--set resources.packing=measured`, with which `run` gives each kind its own {what}."
    )
