"""The wrapper tensor whose device is cuda:0, and what every operation on it does."""

from __future__ import annotations

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from tests.benchmarks.gpu.simulated_cuda.attention import efficient_backward, efficient_forward
from tests.benchmarks.gpu.simulated_cuda.counts import COUNT, DeviceError, place, sync
from tests.benchmarks.gpu.simulated_cuda.generator import with_cuda_generator

CUDA = torch.device("cuda", 0)

DATA_DEPENDENT = {
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::equal",
    "aten::is_nonzero",
    "aten::repeat_interleave.Tensor",
    "aten::bincount",
    "aten::multinomial",
    "aten::_linalg_check_errors",
    "aten::histc",
    "aten::nonzero_static",
    "aten::segment_reduce",
    "aten::unique_dim_consecutive",
}
LINALG = ("aten::linalg_", "aten::_linalg_", "aten::cholesky", "aten::lstsq", "aten::geqrf", "aten::ormqr", "aten::lu_")
NO_KERNEL = {
    "aten::is_same_size",
    "aten::_has_same_storage_numel",
    "aten::detach",
    "aten::alias",
    "aten::lift_fresh",
    "aten::_unsafe_view",
    "aten::empty",
    "aten::empty_like",
    "aten::new_empty",
    "aten::empty_strided",
    "aten::new_empty_strided",
    "aten::_reshape_alias",
    "aten::set_",
    "aten::resize_",
}


class SimulatedTensor(torch.Tensor):
    """`elem`: the CPU tensor within. `zero`: on a GPU it would take neither memory nor a kernel."""

    elem: torch.Tensor
    zero = False

    @staticmethod
    def __new__(cls, elem: torch.Tensor) -> SimulatedTensor:
        assert not isinstance(elem, SimulatedTensor)
        made = torch.Tensor._make_wrapper_subclass(
            cls, elem.size(), strides=elem.stride(), storage_offset=elem.storage_offset(), dtype=elem.dtype, device=CUDA
        )
        made.elem = elem
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self, **_: object) -> str:
        return f"Sim({self.elem!r})"

    def numpy(self, **_: object) -> object:
        raise TypeError(
            f"can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it to host memory first. ({place()})"
        )

    def __array__(self, *_: object, **__: object) -> object:
        return self.numpy()

    def tolist(self) -> object:
        COUNT.d2h += 1
        sync("tolist")
        return self.elem.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return handle(func, args, kwargs or {})


class Simulation(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return handle(func, args, kwargs or {})


def is_cuda(device) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def handle(func, args, kwargs):
    name = func._schema.name
    flat = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    sims = [x for x in flat if isinstance(x, SimulatedTensor)]
    hosts = [x for x in flat if not isinstance(x, SimulatedTensor)]
    has_device = "device" in kwargs and kwargs["device"] is not None
    if has_device and torch.device(kwargs["device"]).type == "meta" and name != "aten::_to_copy":
        return func(*pytree.tree_map(lambda x: x.elem if isinstance(x, SimulatedTensor) else x, args), **kwargs)
    on_cuda = is_cuda(kwargs["device"]) if has_device else bool(sims)
    if not sims and not on_cuda:
        return func(*args, **kwargs)

    def bare(x):
        return x.elem if isinstance(x, SimulatedTensor) else x

    if name == "aten::_local_scalar_dense":
        sync("item")
        COUNT.d2h += 1
        return func(args[0].elem)
    if name == "aten::_to_copy":
        return _to_copy(func, args, kwargs, on_cuda)
    if name in ("aten::copy_", "aten::copy"):
        target, source = args[0], args[1]
        if isinstance(target, SimulatedTensor) != isinstance(source, SimulatedTensor):
            if isinstance(source, SimulatedTensor):
                COUNT.d2h += 1
                sync("copy to host")
            else:
                _h2d(source, bool(args[2]) if len(args) > 2 else kwargs.get("non_blocking", False))
        else:
            COUNT.launches[name] += 1
        func(bare(target), bare(source), *args[2:], **kwargs)
        return target

    generator = kwargs.get("generator") or next((x for x in args if isinstance(x, torch.Generator)), None)
    if generator is not None and generator.device.type == "cpu" and on_cuda:
        raise DeviceError(f"Expected a 'cuda' device type for generator but found 'cpu' ({func}, at {place()})")
    if name == "aten::_efficientzerotensor":  # a tangent that is zero: no memory and no kernel on a GPU; here plain zeros
        return _zero(torch.zeros(args[0], dtype=kwargs.get("dtype")))
    if name in ("aten::mul", "aten::div") and any(x.zero for x in sims):  # no kernel either
        out = func(*pytree.tree_map(bare, args), **kwargs)
        return _zero(out)
    _check_mixing(func, name, sims, hosts, args)

    full = f"{name}.{func._overloadname}" if func._overloadname not in ("default", "") else name
    if name in DATA_DEPENDENT or full in DATA_DEPENDENT or (name.startswith(LINALG) and "norm" not in name):
        sync(f"shape or check depends on values: {name}")
    if name in ("aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_"):
        given = [i for i in (args[1] or []) if i is not None]
        if any(i.dtype in (torch.bool, torch.uint8) for i in given):
            masked_fill = name != "aten::index" and args[2].numel() == 1
            if not masked_fill:
                sync(f"boolean index: {name}")
        if any(not isinstance(i, SimulatedTensor) for i in given):
            _h2d(given[0], False)
    if name == "aten::_scaled_dot_product_efficient_attention":
        COUNT.launches[name] += 1
        return _attention(*args, **kwargs)
    if name == "aten::_scaled_dot_product_efficient_attention_backward":
        COUNT.launches[name] += 3
        return _attention_backward(*args, **kwargs)

    new_args, new_kwargs = pytree.tree_map(bare, (args, kwargs))
    if has_device:
        new_kwargs["device"] = torch.device("cpu")
    if new_kwargs.get("pin_memory"):
        del new_kwargs["pin_memory"]
    if torch.Tag.nondeterministic_seeded in func.tags:
        out = with_cuda_generator(lambda: func(*new_args, **new_kwargs))
    else:
        out = func(*new_args, **new_kwargs)

    returns = func._schema.returns
    view = any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
    if not view and name not in NO_KERNEL:
        COUNT.launches[name] += 1
    if any(r.alias_info is not None and r.alias_info.is_write for r in returns):
        return _written(func, args, kwargs, out)

    def wrap(x):
        return (
            SimulatedTensor(x)
            if isinstance(x, torch.Tensor) and not isinstance(x, SimulatedTensor) and (on_cuda or sims)
            else x
        )

    return pytree.tree_map(wrap, out)


def _zero(elem):
    found = SimulatedTensor(elem)
    found.zero = True
    return found


def _written(func, args, kwargs, out):
    """In-place and out variants return what they were given."""
    names = [a.name for a in func._schema.arguments]
    given = dict(zip(names, args, strict=False)) | kwargs
    by_set = {}
    for argument in func._schema.arguments:
        if argument.alias_info is not None and argument.alias_info.is_write:
            by_set[frozenset(argument.alias_info.before_set)] = given.get(argument.name)
    found = []
    for r in func._schema.returns:
        found.append(by_set[frozenset(r.alias_info.before_set)] if r.alias_info is not None else None)
    target = found[0] if len(found) == 1 else tuple(found)
    if isinstance(target, SimulatedTensor) and (target.shape != target.elem.shape or target.stride() != target.elem.stride()):
        target.data = SimulatedTensor(target.elem)  # squeeze_ and the like
    return target


def _h2d(source, non_blocking) -> None:
    COUNT.h2d += 1
    if not getattr(source, "_sim_pinned", False):
        sync("copy from pageable memory")
    elif not non_blocking:
        sync("blocking copy from pinned memory")


def _to_copy(func, args, kwargs, on_cuda):
    source = args[0]
    given = dict(kwargs)
    if given.get("device") is not None and torch.device(given["device"]).type == "meta":  # forward mode asks for shapes
        return func(source.elem if isinstance(source, SimulatedTensor) else source, **given)
    non_blocking = given.get("non_blocking", False)
    has_device = given.get("device") is not None
    given.pop("device", None)
    given.pop("pin_memory", None)
    if isinstance(source, SimulatedTensor):
        out = func(source.elem, **given)
        if has_device and not on_cuda:
            COUNT.d2h += 1
            sync("copy to host")
            return out
        COUNT.launches["aten::_to_copy"] += 1
        return SimulatedTensor(out)
    _h2d(source, non_blocking)
    out = func(source, **given)
    if out.data_ptr() == source.data_ptr():
        out = out.clone()
    return SimulatedTensor(out)


def _check_mixing(func, name, sims, hosts, args) -> None:
    if not sims or not hosts:
        return
    if name in ("aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_"):
        if not isinstance(args[0], SimulatedTensor):
            raise DeviceError(f"indices should be on the CPU as the indexed tensor is ({func}, at {place()})")
        values = args[2] if len(args) > 2 else None
        if values is not None and not isinstance(values, SimulatedTensor) and values.dim() > 0:
            raise DeviceError(f"expected values on cuda:0 ({func}, at {place()})")
        return
    for host in hosts:
        pointwise = torch.Tag.pointwise in func.tags or name in (
            "aten::where",
            "aten::fill_",
            "aten::masked_fill_",
            "aten::masked_fill",
        )
        fused = name.startswith(("aten::_foreach_", "aten::_fused_"))
        if host.dim() == 0 and (pointwise or fused):
            if not host.dtype.is_floating_point:
                COUNT.mixed_scalars[(str(func), place())] += 1
            continue
        if name.startswith("aten::_scaled_dot_product"):
            continue
        raise DeviceError(
            f"Expected all tensors to be on the same device, but found cuda:0 and cpu ({func}, a host tensor of shape "
            f"{tuple(host.shape)}, at {place()})"
        )


def _attention(query, key, value, attn_bias, compute_log_sumexp, dropout_p=0.0, is_causal=False, *, scale=None):
    bias = None if attn_bias is None else attn_bias.elem
    found = efficient_forward(query.elem, key.elem, value.elem, bias, dropout_p, scale)
    return tuple(SimulatedTensor(tensor) for tensor in found)


def _attention_backward(
    grad_out,
    query,
    key,
    value,
    attn_bias,
    out,
    logsumexp,
    philox_seed,
    philox_offset,
    dropout_p,
    grad_input_mask,
    is_causal=False,
    *,
    scale=None,
):
    bias = attn_bias.elem if isinstance(attn_bias, SimulatedTensor) else None
    given = (grad_out.elem, query.elem, key.elem, value.elem, bias, int(philox_seed.elem), dropout_p, scale)
    return (*(SimulatedTensor(tensor) for tensor in efficient_backward(*given)), None)
