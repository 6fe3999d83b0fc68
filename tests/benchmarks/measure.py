"""Times of alternatives, taken in turns, and memory in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection

import psutil
import torch

from harness.training.peak_memory import peak_bytes, reset_peak


def in_turns(
    work: Mapping[str, Callable[[int], object]],
    rounds: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each alternative in each round. Round k calls each with k; whatever disturbs a round disturbs all of them.

    `clock`: `time.process_time` counts the seconds of this process alone, on a machine that does other work.
    """
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for k in range(-warm_up, rounds):
        for name, function in work.items():
            started = clock()
            function(max(k, 0))
            if k >= 0:
                seconds[name].append(clock() - started)
    return seconds


def median_ratio(seconds: list[float], reference: list[float]) -> float:
    """Median over rounds of the ratio within the round."""
    return statistics.median(one / other for one, other in zip(seconds, reference, strict=True))


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
