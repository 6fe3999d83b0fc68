"""What `nvidia-smi` and NVIDIA's MPS say of this machine's GPUs. Asking makes no CUDA context."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

START_MPS = "nvidia-cuda-mps-control -d"


def query(fields: str, of: str = "gpu") -> list[list[float]]:
    """A row for each GPU, or of="compute-apps" for each process on them; none where there is no nvidia-smi, or it is silent."""
    command = ["nvidia-smi", f"--query-{of}={fields}", "--format=csv,noheader,nounits"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return [[float(field) for field in line.split(",")] for line in text.splitlines() if line.strip()]
    except (OSError, subprocess.CalledProcessError, ValueError):
        return []


def used_mib() -> float:
    """MiB of GPU 0 that all processes use; 0 where nobody says."""
    rows = query("memory.used")
    return rows[0][0] if rows else 0.0


def process_bytes(process: int) -> int | None:
    """Of GPU memory, CUDA's context and libraries included, which no allocator sees.

    None where it is not said: without nvidia-smi, in containers, whose process numbers are not those outside, and under MPS.
    """
    found = [mib for number, mib in query("pid,used_memory", "compute-apps") if number == process]
    return int(sum(found) * 2**20) if found else None


def mps_runs() -> bool:
    """Whether the daemon is there through which processes that share a GPU compute at the same time, and not in turns."""
    return (Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")) / "control").exists()


def how_gpus_are_shared() -> str:
    """For people; empty on a machine without nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return ""
    if mps_runs():
        return "at the same time, through NVIDIA's MPS"
    return f"in turns: NVIDIA's MPS, with which they compute at the same time, does not run here (`{START_MPS}`)"
