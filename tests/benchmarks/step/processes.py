"""A plain KD step in processes of their own: other allocators, two threads against two processes, processes on a core each."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import torch

from tests.benchmarks.measure import compared, in_turns
from tests.benchmarks.outcome import Options, Outcome
from tests.benchmarks.setting import glue_rows, make_training, step_of

TASK, ROWS, STEPS, ROUNDS, SECONDS = "cola", 1000, 4, 12, 15
USUAL = "as it is: glibc's allocator, large pages"
BUSY = 25
"""Percent of all cores that others take, above which nothing is measured by the wall clock."""
PAGES = {"THP_MEM_ALLOC_ENABLE": "0"}
THREADS, TWO, PINNED = "one process, two threads", "two processes, one thread", "two processes, one thread, a core each"
NOTES = [
    f"Processes: {STEPS} plain steps in each. Allocators: CPU seconds, one thread. Large pages are switched on by "
    "`import harness`; jemalloc is the library that Ray brings.",
    f"`cores`: seconds by the wall clock of {2 * STEPS} steps on two cores, so of a machine that does nothing else.",
]


class Worker:
    """Takes plain KD steps in a process of its own, when told to. It starts meanwhile: the first steps come late."""

    def __init__(
        self, cache: Path, threads: int = 1, cores: Sequence[int] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, cache, threads, cores))
        with mock.patch.dict(os.environ, environment or {}):
            self._process.start()
        theirs.close()

    def tell(self, first: int, count: int) -> None:
        """To take `count` steps, from the `first` of the epoch."""
        self._connection.send((first, count))

    def seconds(self) -> float:
        """The process's, of the steps that it was told to take, once they are taken. Raises EOFError where it has ended."""
        taken: float = self._connection.recv()
        return taken

    def close(self) -> None:
        self._connection.send(None)
        self._process.join()


def _serve(connection: Connection, cache: Path, threads: int, cores: Sequence[int]) -> None:
    torch.set_num_threads(threads)
    if cores:
        os.sched_setaffinity(0, cores)
    step = step_of(make_training(glue_rows(TASK, ROWS, cache), "fixed_alpha"))
    for first, count in iter(connection.recv, None):
        started = time.process_time()
        for index in range(first, first + count):
            step(index)
        connection.send(time.process_time() - started)


def run(options: Options) -> Iterator[Outcome]:
    rounds = 1 if options.small else ROUNDS
    glue_rows(TASK, ROWS, options.cache)  # encoded once for all of them
    with ExitStack() as stack:

        def worker(**given: Any) -> Worker:
            return stack.enter_context(closing(Worker(options.cache, **given)))

        yield _found("allocator", {name: _alone(worker(environment=e)) for name, e in allocators().items()}, rounds)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2 or options.small:
        return
    if (busy := psutil.cpu_percent(interval=2.0)) > BUSY:
        yield Outcome("", [], [f"Threads against processes: not measured, as others kept {busy:.0f} % of the cores busy."])
        return
    with ExitStack() as stack:
        ways = {
            THREADS: _together([worker(threads=2)]),
            TWO: _together([worker(), worker()]),
            PINNED: _together([worker(cores=[core]) for core in cores[:2]]),
        }
        yield _found("cores", ways, rounds)


def allocators() -> dict[str, dict[str, str]]:
    """Way -> environment."""
    found: dict[str, dict[str, str]] = {USUAL: {}, "without large pages": PAGES}
    ray = find_spec("ray")
    library = Path(str(ray.origin)).parent / "core" / "libjemalloc.so" if ray else Path()
    if library.is_file():
        kept = "dirty_decay_ms:-1,muzzy_decay_ms:-1"
        found["jemalloc"] = {"LD_PRELOAD": str(library)}
        found["jemalloc that keeps its pages"] = {"LD_PRELOAD": str(library), "MALLOC_CONF": kept}
    return found


def _alone(worker: Worker) -> Callable[[int], float]:
    def steps(index: int) -> float:
        worker.tell(index * STEPS, STEPS)
        return worker.seconds()

    return steps


def _together(workers: list[Worker]) -> Callable[[int], None]:
    """Twice the steps, shared out among the workers."""

    def steps(index: int) -> None:
        for worker in workers:
            worker.tell(index * STEPS, 2 * STEPS // len(workers))
        for worker in workers:
            worker.seconds()

    return steps


def _found(stage: str, ways: dict[str, Callable[[int], object]], rounds: int) -> Outcome:
    seconds = in_turns(ways, rounds, limit=SECONDS)
    about = {"stage": stage, "task": TASK, "precision": "fp32"}
    return Outcome("", [about | row for row in compared(seconds, dict.fromkeys(seconds, next(iter(seconds))))], NOTES)
