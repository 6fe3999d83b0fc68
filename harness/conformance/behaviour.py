"""What a strategy does in a small training, compared with what it declares."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from harness.conformance.choices import traces_of_choices
from harness.conformance.teacher_order import teacher_order_faults
from harness.conformance.tiny_training import BATCH, STEPS, STEPS_PER_EPOCH, Trace, World
from harness.conformance.watched import Watched
from strategies.base import Cost, Needs, Normalisation, Settings, Strategy
from strategies.registry import Registered, resolve, strategy_names

SUM_TOLERANCE = 1e-4
RENEWED = (2, STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH, 3 * STEPS_PER_EPOCH + 1)
"""Before these steps the strategy's state goes through a file: between epochs and within."""
MANY_TEACHERS = 3


def behaviour_faults(registered: Registered) -> Iterator[tuple[str, str]]:
    """(check, what to change) for each mistake. Raises whatever the strategy raises."""
    settings = registered.settings()
    needs = registered.needs(settings)
    world = World(needs, max(teacher_counts(needs)))

    def make() -> Strategy[Any]:
        return registered.create(settings, world.setup)

    plain = world.run(make)
    faults: dict[str, str] = {}
    world.run(make, watch=lambda strategy: Watched(strategy, make, faults))
    yield from faults.items()
    yield from teacher_order_faults(registered, world)
    yield from _few_teachers_faults(registered, needs)
    if not _same(plain, world.run(make)):
        yield (
            "determinism",
            "two trainings with the same seeds differ. Take initial parameters from setup.seed and draws from "
            "context.generator, and keep nothing in globals or on the class",
        )
    if not _same(plain, world.run(make, renew_before=RENEWED)):
        yield (
            "state",
            "a training that goes on from a checkpoint differs from one without a break. state_dict() must hold everything "
            "that changes in training (optimiser, running means, memory, history), load_state_dict() must put all of it back",
        )
    yield from _normalisation_faults(registered.normalisation(settings), plain)
    yield from _sample_wise_faults(registered.sample_wise, plain)
    yield from _cost_faults(registered.strategy.cost, needs, plain)
    if not registered.wrappers:
        yield from _choices_faults(registered, max(teacher_counts(needs)))
        yield from _twin_faults(registered, settings)


def teacher_counts(needs: Needs) -> list[int]:
    """Numbers of teachers to try, as far as the strategy allows them."""
    fewest, most = needs.teachers
    wanted = {max(1, fewest), max(MANY_TEACHERS, fewest)}
    return sorted(count for count in wanted if most is None or count <= most) or [fewest]


def _few_teachers_faults(registered: Registered, needs: Needs) -> Iterator[tuple[str, str]]:
    """With as few teachers as the strategy takes: one has no other to be compared with."""
    for count in teacher_counts(needs)[:-1]:
        trace = _default_trace(registered.name, count)
        if not _finite(trace):
            yield "finite", f"with {count} teacher(s) a weight is not finite. One teacher among one should get the whole weight"
        for check, fault in _normalisation_faults(registered.normalisation(registered.settings()), trace):
            yield check, f"with {count} teacher(s): {fault}"


def _choices_faults(registered: Registered, teachers: int) -> Iterator[tuple[str, str]]:
    """With each of the settings' other choices: it runs, and the weights are what is declared for that choice."""
    for shown, settings, trace in traces_of_choices(registered, teachers):
        if isinstance(trace, Exception):
            yield "runs", f"with {shown}: {type(trace).__name__}: {trace}"
        elif not _finite(trace):
            yield "finite", f"with {shown} a weight is not finite"
        else:
            for check, fault in _normalisation_faults(registered.normalisation(settings), trace):
                yield check, f"with {shown}: {fault} Where a setting changes the promise, override `normalisation_with`"


def _finite(trace: Trace) -> bool:
    return all(bool(weight.isfinite().all()) for step in trace.weights for weight in step.values())


def _normalisation_faults(promise: Normalisation, trace: Trace) -> Iterator[tuple[str, str]]:
    if promise is Normalisation.FREE:
        return
    check = "normalisation"
    low = min(float(weight.min()) for step in trace.weights for weight in step.values())
    if low < -SUM_TOLERANCE:
        yield check, f"declares {promise.value}, but a weight is {low:.3g}. Weights below 0 need Normalisation.FREE"
        return
    sums = [_sample_sums(step) for step in trace.weights]
    if promise is Normalisation.CONVEX:
        worst = max((float(s) for one in sums for s in one), key=lambda total: abs(total - 1))
        if abs(worst - 1) > SUM_TOLERANCE:
            yield (
                check,
                (
                    f"declares convex weights, but a sample's weights sum to {worst:.4g} over all terms and teachers. "
                    "Divide by the sum, or declare Normalisation.ADDITIVE"
                ),
            )
    if promise is Normalisation.BATCH:
        means = [float(one.mean()) for one in sums]
        if max(means) - min(means) > SUM_TOLERANCE * max(1.0, abs(means[0])):
            yield (
                check,
                (
                    f"declares a fixed mean over the batch, but the mean of a sample's summed weights goes from "
                    f"{min(means):.4g} to {max(means):.4g}. Divide by the batch mean, or declare Normalisation.ADDITIVE"
                ),
            )


def _sample_sums(step: dict[str, Tensor]) -> Tensor:
    """[batch]: each sample's weights, summed over terms and teachers."""
    return torch.stack([weight if weight.dim() == 1 else weight.sum(0) for weight in step.values()]).sum(0)


def _sample_wise_faults(declared: bool, trace: Trace) -> Iterator[tuple[str, str]]:
    spread = max(float((w.max(-1).values - w.min(-1).values).max()) for step in trace.weights for w in step.values())
    if declared and spread == 0:
        yield "sample-wise", "declares sample_wise, but no two samples of a batch ever got different weights. Declare False"
    if not declared and spread > SUM_TOLERANCE:
        yield "sample-wise", f"samples of one batch get different weights (by up to {spread:.3g}). Declare sample_wise = True"


def _cost_faults(declared: Cost, needs: Needs, trace: Trace) -> Iterator[tuple[str, str]]:
    forward, backward = (count / (STEPS * BATCH) for count in (trace.forward, trace.backward))
    counted = f"{forward:.2f} forward and {backward:.2f} backward passes per sample beside the training step's own"
    if declared is Cost.PLAIN and (forward or backward):
        yield "cost", f"declares cost plain, but {counted} were counted. Declare the Cost that fits"
    if declared in (Cost.LOOK_AHEAD, Cost.PER_TERM, Cost.REPLAY, Cost.PARTS) and not (forward or backward):
        yield (
            "cost",
            (
                f"declares cost {declared.value}, but no pass beside the training step's own was counted. Declare "
                "Cost.PLAIN, and do not ask in needs() for what is not used"
            ),
        )
    if declared is Cost.PER_TERM and forward:
        yield "cost", f"declares one backward pass per term, but {counted} were counted"
    if needs.look_ahead is not None and not backward:
        yield (
            "cost",
            "needs() asks for the look-ahead, but it was never called: the meta set is taken from training for nothing",
        )


def _twin_faults(registered: Registered, settings: Settings) -> Iterator[tuple[str, str]]:
    """A strategy that cannot be told from a built-in one is that one, or does not do what it says."""
    needs = registered.needs(settings)
    for name in strategy_names():
        other = resolve(name)
        if not other.strategy.__module__.startswith("strategies."):
            continue
        if other.strategy is registered.strategy or other.refuses(other.settings(), 3):
            continue
        theirs = other.needs(other.settings())
        shared = set(teacher_counts(needs)) & set(teacher_counts(theirs))
        if needs.terms != theirs.terms or not shared:
            continue
        lengths = [(n, steps) for steps in (2, STEPS) for n in shared]  # most differ from the start: no training to the end
        if all(_same(_default_trace(registered.name, *of), _default_trace(name, *of)) for of in lengths):
            yield (
                "own behaviour",
                (
                    f"in every step its weights were those of {name!r} (default settings, "
                    f"{' and '.join(map(str, sorted(shared)))} teachers). Check that the settings reach the computation; "
                    "if it is meant to be the same, it is not needed twice"
                ),
            )


@cache
def _default_trace(name: str, teachers: int, steps: int = STEPS) -> Trace:
    registered = resolve(name)
    settings = registered.settings()
    world = World(registered.needs(settings), teachers)
    return world.run(lambda: registered.create(settings, world.setup), steps=steps)


def _same(one: Trace, other: Trace) -> bool:
    return all(
        torch.equal(mine[term], theirs[term]) for mine, theirs in zip(one.weights, other.weights, strict=True) for term in mine
    )
