"""Patches of torch that make it take the simulated device for a real one."""

from __future__ import annotations

import torch
from torch.optim import optimizer
from torch.utils import _foreach_utils
from torch.utils import _pytree as pytree

from tests.benchmarks.gpu.simulated_cuda import generator
from tests.benchmarks.gpu.simulated_cuda.attention import scaled_dot_product_attention
from tests.benchmarks.gpu.simulated_cuda.counts import COUNT
from tests.benchmarks.gpu.simulated_cuda.tensor import SimulatedTensor, Simulation, is_cuda


class _Properties:
    name, total_memory, major, minor, multi_processor_count = "NVIDIA H100 80GB HBM3 (simulated)", 85 * 10**9, 9, 0, 132


def _pin_memory(self, device=None):
    COUNT.pinned += 1
    found = self.clone()
    found._sim_pinned = True
    return found


_save, _load = torch.save, torch.load


def _save_simulated(content, file, **options):
    def bare(x):
        return x.elem.detach().clone() if isinstance(x, SimulatedTensor) else x

    for leaf in pytree.tree_leaves(content):
        if isinstance(leaf, SimulatedTensor):
            COUNT.d2h += 1
    return _save(pytree.tree_map(bare, content), file, **options)


def _load_simulated(file, map_location=None, **options):
    found = _load(file, map_location="cpu", **options)
    if not is_cuda(map_location):
        return found
    return pytree.tree_map(lambda x: SimulatedTensor(x) if isinstance(x, torch.Tensor) else x, found)  # every storage is moved


def install() -> Simulation:
    """Patch torch for the rest of the process, and return the mode; enter it around everything."""
    cuda = torch.cuda
    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_name": lambda device=None: _Properties.name,
        "get_device_properties": lambda device=None: _Properties,
        "get_device_capability": lambda device=None: (9, 0),
        "is_bf16_supported": lambda including_emulation=True: True,
        "get_rng_state": generator.get_rng_state,
        "set_rng_state": generator.set_rng_state,
        "memory_allocated": lambda device=None: 10**8,
        "max_memory_allocated": lambda device=None: 2 * 10**8,
        "max_memory_reserved": lambda device=None: 3 * 10**8,
        "reset_peak_memory_stats": lambda device=None: None,
        "empty_cache": lambda: None,
        "set_per_process_memory_fraction": lambda fraction, device=None: None,
        "synchronize": lambda device=None: None,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "is_current_stream_capturing": lambda: False,
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
    }.items():
        setattr(cuda, name, value)
    torch.Tensor.pin_memory = _pin_memory
    torch.manual_seed = torch.random.manual_seed = generator.manual_seed
    torch.save, torch.load = _save_simulated, _load_simulated
    torch.nn.functional.scaled_dot_product_attention = scaled_dot_product_attention
    for types in (optimizer._foreach_supported_types, getattr(_foreach_utils, "_foreach_supported_types", None)):
        if isinstance(types, list):
            types.append(SimulatedTensor)
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a wrapper's data cannot be put into a plain parameter
    torch._C._set_only_lift_cpu_tensors(True)  # or else torch.tensor(..., device="cuda") copies below any mode
    return Simulation()
