"""The GPU's own random generator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.gpu.simulated_cuda.counts import DeviceError

_state = [torch.Generator().manual_seed(0).get_state()]
_get_host_state, _set_host_state, _seed_host = torch.get_rng_state, torch.set_rng_state, torch.manual_seed


def with_cuda_generator(run: Callable[[], Any]) -> Any:
    before = _get_host_state()
    _set_host_state(_state[0])
    try:
        return run()
    finally:
        _state[0] = _get_host_state()
        _set_host_state(before)


def manual_seed(seed: int) -> torch.Generator:
    """Of both devices, as torch.manual_seed."""
    _state[0] = torch.Generator().manual_seed(int(seed)).get_state()
    return _seed_host(seed)


def get_rng_state(device: Any = "cuda") -> Tensor:
    with torch._C._DisableFuncTorch():
        return _state[0].clone()


def set_rng_state(state: Tensor, device: Any = "cuda") -> None:
    if state.device.type != "cpu":
        raise DeviceError("RNG state must be a torch.ByteTensor on the CPU")
    with torch._C._DisableFuncTorch():  # as torch.cuda.set_rng_state does
        _state[0] = state.clone()
