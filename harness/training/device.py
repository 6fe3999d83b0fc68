"""The device that a training's resources give it."""

from __future__ import annotations

import logging
import platform
from functools import cache
from pathlib import Path

import torch


def device_for(gpus: float) -> torch.device:
    """The CPU for `gpus` 0, whatever the machine has: a GPU that nobody reserved is another trial's. Else the current GPU.

    The process is held to the share that `gpus` < 1 says: to Ray it is only a number. Attention of cuDNN, which plans anew for
    every shape of a batch and in every thread, is off: batches have the width of their longest row, and Tune trains each trial
    in a thread of its own.
    """
    if gpus == 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        logging.getLogger("harness").warning("gpus_per_worker is %g, and PyTorch finds no GPU: training on the CPU", gpus)
        return torch.device("cpu")
    torch.cuda.set_per_process_memory_fraction(min(1.0, gpus))
    torch.backends.cuda.enable_cudnn_sdp(False)
    return torch.device("cuda")


@cache
def processor() -> str:
    """The model of this machine's processor."""
    return _of_the_processor("model name") or platform.processor() or platform.machine()


def processor_has_bf16() -> bool | None:
    """Whether this machine's processor has instructions for bf16; None where it does not say. Without them a step in bf16 takes
    longer than one in fp32: 13 times as long with AVX2 alone (MiniLM of three layers on CoLA, torch 2.13).
    """
    flags = _of_the_processor("flags") or _of_the_processor("Features")
    return "bf16" in flags if flags else None


def _of_the_processor(name: str) -> str:
    """A line of what Linux says of it; empty where there is none."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text("utf-8", errors="replace").splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return ""
