"""CUDA without a GPU: real numbers on the CPU, in tensors that say they are on cuda:0, with CUDA's rules.

Import this before torch, and enter what `install` returns around everything. A torch without CUDA is given a device guard and
hooks for "cuda" (`device.cpp`, compiled once), a wrapper tensor whose device is cuda:0 and which holds a CPU tensor, and a
dispatch mode that

- raises where real CUDA raises: an operation on tensors of both devices, a CPU generator for a tensor on the GPU, `.numpy()`;
- counts what makes the host wait for the GPU (`syncs`): `.item()`, copies to the host, copies from pageable memory or without
  `non_blocking`, operations whose result's shape depends on values;
- counts operations that launch a kernel at least (`launches`), copies, and pinned allocations;
- takes CUDA's own ways through PyTorch: native_dropout, CUDA's autocast lists, its own random generator, and for
  scaled_dot_product_attention the backend that aten/src/ATen/native/transformers/cuda/sdp_utils.cpp would choose on an H100.

Not simulated: kernels' own numerics, streams, memory, NCCL.
"""

from __future__ import annotations

from tests.benchmarks.gpu.simulated_cuda.library import load

load()

from tests.benchmarks.gpu.simulated_cuda.counts import COUNT, Counters, DeviceError  # noqa: E402
from tests.benchmarks.gpu.simulated_cuda.patches import install  # noqa: E402
from tests.benchmarks.gpu.simulated_cuda.tensor import CUDA, SimulatedTensor  # noqa: E402

__all__ = ["COUNT", "CUDA", "Counters", "DeviceError", "SimulatedTensor", "install"]
