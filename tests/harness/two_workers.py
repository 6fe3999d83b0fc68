"""Code run by two processes of one real process group, as a trial's two workers run it, without Ray."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["transformers", "harness.training.trial", "tests.harness.two_workers"])
"""Both are forked from a process in which nothing but these imports has happened: they take longer than most tests."""


def run_on_two_workers(body: str, *arguments: str, timeout: float = 240) -> None:
    """`body` finds `ranks`, `torch` and `sys.argv[1:]` = `arguments`. Fails with the first error of either, or when late."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    work = [(body, arguments, {**shared, "RANK": str(rank)}) for rank in range(2)]
    with PROCESSES.Pool(2) as pool:  # where one fails, the other, which waits for it, is ended with the pool
        ended = pool.imap_unordered(_run, work)
        for _ in work:
            ended.next(timeout)


def _run(work: tuple[str, tuple[str, ...], dict[str, str]]) -> None:
    body, arguments, environment = work
    os.environ.update(environment)
    sys.argv[1:] = arguments
    import torch
    import torch.distributed as dist

    from harness.ranks import ProcessGroup

    dist.init_process_group("gloo")
    exec(body, {"sys": sys, "torch": torch, "dist": dist, "ranks": ProcessGroup()})
    dist.destroy_process_group()
