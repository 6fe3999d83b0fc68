"""Versions, what this card and its host can do, and which attention PyTorch takes."""

from __future__ import annotations

import contextlib
import importlib.metadata as metadata
import os
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch

from harness.training.nvidia_smi import used_mib
from tests.benchmarks.gpu.bench import Bench
from tests.benchmarks.gpu.stages import Found

PACKAGES = (
    *("torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy", "scikit-learn", "pandas", "pyarrow", "pydantic"),
    *("optuna", "ray", "datasets"),
)
ATTENTION = {0: "math", 1: "flash", 2: "efficient", 3: "cudnn"}


def run(found: Found, bench: Bench) -> None:
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    found.put("versions", versions)
    found.put("cpus", os.cpu_count())
    if not bench.cuda:
        found.say(f"no CUDA device; {versions}")
        return
    found.put("nvidia_smi", subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False).stdout[:3000])
    before = used_mib()
    name = torch.cuda.get_device_name(0)  # what the driver of a study does (harness.commands.manifest)
    found.put("mib_of_asking_for_the_name", used_mib() - before)
    queries = torch.randn(32, 12, 64, 32, device="cuda", dtype=torch.bfloat16)
    found.put("mib_of_a_first_tensor", used_mib() - before)
    found.put("cudnn", torch.backends.cudnn.version())
    choice = _attention(queries)
    found.put("attention_in_bf16", choice)
    square = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    flops = 2 * 8192**3 / _seconds(lambda: square @ square, 10)
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    bandwidth = 2 * source.numel() / _seconds(lambda: target.copy_(source), 10)
    launch = _seconds(lambda: [queries.add_(0) for _ in range(200)], 5) / 200
    found.put("bf16_tflops", flops / 1e12)
    found.put("bandwidth_tb_s", bandwidth / 1e12)
    found.put("host_us_a_launch", launch * 1e6)
    found.say(
        f"{name}; torch {torch.__version__}, cuDNN {found.content['cudnn']}; bf16 {flops / 1e12:.0f} TFLOP/s, "
        f"{bandwidth / 1e12:.2f} TB/s, {launch * 1e6:.1f} us a launch; attention in bf16 {choice}; cpus {os.cpu_count()}"
    )


def _attention(queries: torch.Tensor) -> dict[str, str]:
    """What PyTorch chooses by itself, with cuDNN allowed, with and without a mask and dropout."""
    mask = torch.ones(queries.shape[0], 1, queries.shape[2], queries.shape[2], dtype=torch.bool, device=queries.device)
    given: list[tuple[str, torch.Tensor | None]] = [("no mask", None), ("mask", mask)]
    return {
        f"{name}, dropout {dropout}": ATTENTION[torch._fused_sdp_choice(queries, queries, queries, held, dropout)]
        for name, held in given
        for dropout in (0.0, 0.1)
    }


def _seconds(work: Callable[[], Any], times: int) -> float:
    for _ in range(2):
        work()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(times):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / times
