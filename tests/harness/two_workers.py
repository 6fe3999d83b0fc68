"""Code run by two processes of one real process group, as a trial's two workers run it, without Ray."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

_FRAME = """
import sys
import torch
import torch.distributed as dist
from harness.ranks import ProcessGroup

dist.init_process_group("gloo")
ranks = ProcessGroup()
{body}
dist.destroy_process_group()
"""


def run_on_two_workers(body: str, *arguments: str, timeout: float = 240) -> None:
    """`body` finds `ranks`, `torch` and `sys.argv[1:]` = `arguments`. Fails with both workers' errors where one fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _FRAME.format(body=body), *arguments],
            env={**os.environ, **shared, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [worker.communicate(timeout=timeout)[1] for worker in workers]
    finally:  # where one is late, the other waits for it
        for worker in workers:
            worker.kill()
            worker.wait()
            assert worker.stderr is not None
            worker.stderr.close()
    assert [worker.returncode for worker in workers] == [0, 0], errors
