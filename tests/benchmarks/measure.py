"""Times of alternatives, taken in turns, and memory in processes of their own."""

from __future__ import annotations

import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from typing import Any

import psutil
import torch

from harness.training.peak_memory import peak_bytes, reset_peak

LEAST_ROUNDS = 3


def in_turns(
    work: Mapping[str, Callable[[int], object]],
    rounds: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    limit: float = math.inf,
) -> dict[str, list[float]]:
    """Seconds of each alternative in each round. Round k calls each with k; whatever disturbs a round disturbs all of them.

    Every other round goes from the last to the first, so that none always comes after the same one.


    warm_up  rounds before, which do not count; they begin at 0, too
    clock    `time.process_time` counts the seconds of this process alone, on a machine that does other work. A function that
             returns a float has taken its seconds itself.
    limit    seconds by the wall clock after which no further round begins; there are `LEAST_ROUNDS` all the same
    """
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for k in range(-warm_up, rounds):
        if k == 0:
            began = time.perf_counter()
        if k >= LEAST_ROUNDS and time.perf_counter() - began > limit:
            break
        for name, function in list(work.items())[:: 1 if k % 2 == 0 else -1]:
            started = clock()
            own = function(k if k >= 0 else k + warm_up)
            taken = own if isinstance(own, float) else clock() - started
            if k >= 0:
                seconds[name].append(taken)
    return seconds


def median_ratio(seconds: list[float], reference: list[float]) -> float:
    """Median over rounds of the ratio within the round."""
    return statistics.median(one / other for one, other in zip(seconds, reference, strict=True))


def compared(seconds: Mapping[str, list[float]], before: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """A row for each alternative, against the first and against the one before it, which `before` may name.

    Ratios are medians over rounds of that within the round; `of all rounds`: of the sums, as batches differ in length.
    """
    names = list(seconds)
    rows = []
    for name, last in zip(names, [None, *names], strict=False):
        row: dict[str, Any] = {"way": name, "ms": round(1e3 * statistics.median(seconds[name]), 1)}
        row["rounds"] = len(seconds[name])
        row["of the first"] = round(median_ratio(seconds[name], seconds[names[0]]), 3)
        row["of all rounds"] = round(sum(seconds[name]) / sum(seconds[names[0]]), 3)
        if last is not None:
            one_before = (before or {}).get(name, last)
            each = [a / b for a, b in zip(seconds[name], seconds[one_before], strict=True)]
            low, middle, high = statistics.quantiles(each, n=4) if len(each) > 1 else each * 3
            row |= {"of the one before": round(middle, 3), "its quartiles": f"{low:.3f} to {high:.3f}"}
        rows.append(row)
    return rows


def load() -> float:
    """Processes that wanted a core in the last minute, on average."""
    return round(os.getloadavg()[0], 2)


def memory_mib(phases: Callable[..., Iterator[None]], *given: object) -> tuple[float, float]:
    """MiB resident in a new process, of a generator function that must be importable: at its first `yield`, and at most after
    its second.
    """
    receive, send = multiprocessing.get_context("spawn").Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_report_memory, args=(send, phases, given))
    process.start()
    send.close()
    try:
        found: tuple[float, float] = receive.recv()
    finally:
        process.join()
    return found


def _report_memory(send: Connection, phases: Callable[..., Iterator[None]], given: tuple[object, ...]) -> None:
    running = phases(*given)
    next(running)
    before = psutil.Process().memory_info().rss
    next(running)
    reset_peak(torch.device("cpu"))
    for _ in running:
        pass
    send.send((before / 2**20, peak_bytes(torch.device("cpu")) / 2**20))
