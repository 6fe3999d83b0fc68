"""What one rank of a trial knows of the others: plain torch.distributed, whoever started the processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn


class Ranks(Protocol):
    """All ranks must make the same calls in the same order."""

    @property
    def rank(self) -> int: ...

    @property
    def world(self) -> int: ...

    def wrap(self, model: nn.Module) -> Any:
        """The model as it is to be called in training: its gradients come out averaged over ranks."""
        ...

    def gather_rows(self, rows: Tensor, dim: int = 0) -> Tensor:
        """The ranks' tensors joined along `dim`, in the order of ranks. They may differ in size along `dim` only."""
        ...

    def gather_with_gradient(self, rows: Tensor) -> Tensor:
        """`gather_rows` along the first dimension. Going backward, a rank's rows get the sum of all ranks' gradients."""
        ...

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over ranks, in place."""
        ...


class Single:
    """The only rank."""

    rank = 0
    world = 1

    def wrap(self, model: nn.Module) -> Any:
        return model

    def gather_rows(self, rows: Tensor, dim: int = 0) -> Tensor:
        return rows

    def gather_with_gradient(self, rows: Tensor) -> Tensor:
        return rows

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        pass


class ProcessGroup:
    """The ranks of torch.distributed's default process group, which must be initialised."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world = dist.get_world_size()

    def wrap(self, model: nn.Module) -> Any:
        device = next(model.parameters()).device
        # a pooler or a head that this task does not reach has no gradient
        return nn.parallel.DistributedDataParallel(
            model, device_ids=[device] if device.type == "cuda" else None, find_unused_parameters=True
        )

    def gather_rows(self, rows: Tensor, dim: int = 0) -> Tensor:
        rows = rows.transpose(0, dim).contiguous()
        size = torch.tensor([rows.shape[0]], device=rows.device)
        sizes = [torch.empty_like(size) for _ in range(self.world)]
        dist.all_gather(sizes, size)
        counts = [int(s) for s in sizes]
        # gloo and NCCL both want equal shapes
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: rows.shape[0]] = rows
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)]).transpose(0, dim)

    def gather_with_gradient(self, rows: Tensor) -> Tensor:
        found: Tensor = _GatherRows.apply(rows, self)  # type: ignore[no-untyped-call]
        return found

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        if not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        offset = 0
        for tensor in tensors:
            tensor.copy_(flat[offset : offset + tensor.numel()].view_as(tensor))
            offset += tensor.numel()


class _GatherRows(torch.autograd.Function):
    """All ranks must go backward through it, in the same order of graph."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: ProcessGroup) -> Tensor:
        found = ranks.gather_rows(rows.detach())
        before = ranks.gather_rows(torch.tensor([rows.shape[0]], device=rows.device))[: ranks.rank]
        ctx.ranks, ctx.start, ctx.rows = ranks, int(before.sum()), rows.shape[0]
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous().clone()
        ctx.ranks.sum_([total])
        return total[ctx.start : ctx.start + ctx.rows], None


def shard(rows: np.ndarray, rank: int, world: int) -> np.ndarray:
    """The contiguous part of `rows` that a rank works on; the ranks' parts in order are `rows`."""
    return np.array_split(rows, world)[rank]


def own_rows(global_rows: int, ranks: Ranks) -> slice:
    """Where this rank's rows lie in a global batch."""
    if ranks.world == 1:
        return slice(None)
    mine = shard(np.arange(global_rows), ranks.rank, ranks.world)
    return slice(int(mine[0]), int(mine[-1]) + 1)


def own_part(values: Tensor, global_rows: int, ranks: Ranks) -> Tensor:
    """The rank's part of [..., global batch]; a value for all samples stays as it is."""
    if ranks.world == 1 or values.dim() == 0 or values.shape[-1] == 1:
        return values
    return values[..., own_rows(global_rows, ranks)]


def is_broken_connection(error: BaseException) -> bool:
    """Whether this only says that the connection to another rank broke.

    gloo raises plain RuntimeErrors, with its source path in the text. NCCL also says in one of its own that memory ran out.
    """
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)
