"""scaled_dot_product_attention as CUDA has it: which backend is taken, and the memory-efficient kernel's two ways."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from tests.benchmarks.gpu.simulated_cuda.counts import COUNT, DeviceError
from tests.benchmarks.gpu.simulated_cuda.generator import with_cuda_generator

PREFER_CUDNN = [True]
"""As with cuDNN > 9.15.1 on compute capability 9 (check_prefer_cudnn_attention)."""

_plain = torch.nn.functional.scaled_dot_product_attention


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if has_torch_function((query, key, value)):  # as PyTorch's own, which is written in C++
        given = (query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
        return handle_torch_function(scaled_dot_product_attention, (query, key, value), *given)
    if query.device.type != "cuda":
        return _plain(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    assert not is_causal
    assert not enable_gqa
    if torch.is_autocast_enabled("cuda"):
        low = torch.get_autocast_dtype("cuda")
        query, key, value = (t.to(low) for t in (query, key, value))
    backend = choose_backend(query, key, value, attn_mask, dropout_p)
    COUNT.attention[f"{backend}, {str(query.dtype)[6:]}"] += 1
    with torch.autocast("cuda", enabled=False):
        bias = attn_mask
        if bias is not None and bias.dtype == torch.bool:  # convert_boolean_attn_mask, in every layer
            bias = torch.zeros(bias.shape, dtype=query.dtype, device=query.device).masked_fill(
                bias.logical_not(), float("-inf")
            )
        if backend == "math":
            return _math(query, key, value, bias, dropout_p, scale)
        if bias is not None:
            bias = bias.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
        grad = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
        efficient = torch.ops.aten._scaled_dot_product_efficient_attention
        return efficient(query, key, value, bias, grad, dropout_p, False, scale=scale)[0]


def choose_backend(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, dropout_p: float) -> str:
    """sdp_utils.cpp, select_sdp_backend, for compute capability 9.0. Raises DeviceError where none is allowed."""
    allowed = torch.backends.cuda
    half = query.dtype in (torch.bfloat16, torch.float16)
    width = query.shape[-1]
    same = width == key.shape[-1] == value.shape[-1]
    cudnn = (
        allowed.cudnn_sdp_enabled()
        and half
        and dropout_p * 16 % 1 == 0
        and width % 8 == 0
        and width <= 128
        and key.shape[-2] != 1
        and not (dropout_p > 0 and query.shape[-2] == 1)
    )
    flash = allowed.flash_sdp_enabled() and half and attn_mask is None and same and width <= 256
    efficient = allowed.mem_efficient_sdp_enabled() and same and width % (8 if half else 4) == 0
    order = [
        ("cudnn", cudnn and PREFER_CUDNN[0]),
        ("flash", flash),
        ("efficient", efficient),
        ("math", allowed.math_sdp_enabled()),
    ]
    for name, fits in order:
        if fits:
            return name
    raise DeviceError("No available kernel. Aborting execution.")


def efficient_forward(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout_p: float, scale: float | None
) -> tuple[Tensor, ...]:
    """On host tensors: output, log of the sums of exponentials, seed, offset."""
    q, k, v = (t.float() for t in (query, key, value))
    seed = with_cuda_generator(lambda: int(torch.randint(2**31, ()))) if dropout_p > 0 else 0
    p, kept, sums = _probabilities(q, k, bias, scale, dropout_p, seed)
    out = ((p * kept) @ v).to(query.dtype)
    # memory as the kernel's: [batch, rows, heads, width]
    return out.transpose(1, 2).contiguous().transpose(1, 2), sums, torch.tensor(seed), torch.tensor(0)


def efficient_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    seed: int,
    dropout_p: float,
    scale: float | None,
) -> tuple[Tensor, ...]:
    """On host tensors: gradients of query, key and value."""
    g, q, k, v = (t.float() for t in (gradient, query, key, value))
    factor = scale if scale is not None else q.shape[-1] ** -0.5
    p, kept, _ = _probabilities(q, k, bias, scale, dropout_p, seed)
    dp = (g @ v.transpose(-1, -2)) * kept
    ds = p * (dp - (dp * p).sum(-1, keepdim=True))
    found = (ds @ k * factor, ds.transpose(-1, -2) @ q * factor, (p * kept).transpose(-1, -2) @ g)
    return tuple(d.to(t.dtype) for d, t in zip(found, (query, key, value), strict=True))


def _probabilities(
    q: Tensor, k: Tensor, bias: Tensor | None, scale: float | None, dropout_p: float, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    s = q @ k.transpose(-1, -2) * (scale if scale is not None else q.shape[-1] ** -0.5)
    if bias is not None:
        s = s + bias.float()
    kept = torch.ones(())
    if dropout_p > 0:
        kept = (torch.rand(s.shape, generator=torch.Generator().manual_seed(seed)) >= dropout_p).float() / (1 - dropout_p)
    return s.softmax(-1), kept, s.logsumexp(-1)


def _math(query: Any, key: Any, value: Any, bias: Any, dropout_p: float, scale: float | None) -> Tensor:
    """_scaled_dot_product_attention_math, operation by operation (the operation itself upsets functorch below a mode)."""
    kind = query.dtype
    if kind in (torch.bfloat16, torch.float16):  # unless allow_fp16_bf16_reduction_math_sdp
        query, key, value = query.float(), key.float(), value.float()
        bias = None if bias is None else bias.float()
    factor = (scale if scale is not None else query.shape[-1] ** -0.5) ** 0.5
    found = torch.matmul(query * factor, (key * factor).transpose(-2, -1))
    if bias is not None:
        found = found + bias
    found = torch.nn.functional.dropout(torch._safe_softmax(found, -1), dropout_p, dropout_p > 0)
    return torch.matmul(found, value).to(kind)
