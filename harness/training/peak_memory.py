"""Peak memory of one trial, in a process that trains many."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

import torch

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def reset_peak(device: torch.device) -> None:
    """Start measuring anew, with what earlier trials have freed given back. On a CPU only Linux can; elsewhere the peak is that
    of the process's whole life.
    """
    _give_back_free_memory()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR.exists():
        _CLEAR.write_text("5")  # proc(5): resets the peak resident set size


def peak_bytes(device: torch.device) -> int:
    """The allocator's peak on a GPU; on a CPU the process's peak resident set, libraries included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.exists():  # getrusage's peak may be that of the process which started this one
        (peak,) = (line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _give_back_free_memory() -> None:
    """Glibc keeps what a thread has freed for other threads' use, and Tune trains each trial in a thread of its own: a process
    that trains MiniLMs grew by some 100 MB a trial, to 4 GB after 70.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # other libraries than glibc have none
        trim(0)
