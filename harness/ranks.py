"""What one rank of a trial knows of the others: plain torch.distributed, whoever started the processes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn


class UnusedParametersError(ValueError):
    """The loss leaves parameters without a gradient, and nothing declared it."""


class Ranks(Protocol):
    """All ranks must make the same calls in the same order."""

    @property
    def rank(self) -> int: ...

    @property
    def world(self) -> int: ...

    @property
    def stacked(self) -> int:
        """Trainings in this process that share their passes."""
        ...

    def wrap(self, model: nn.Module, find_unused: bool) -> Any:
        """The model as it is to be called in training: its gradients come out averaged over ranks.

        `find_unused`: the loss may leave parameters without a gradient. They are searched for then in every step.
        """
        ...

    def check_gradients(self, model: nn.Module) -> None:
        """After a backward pass. Raises UnusedParametersError, on all ranks, where a parameter of a model that was wrapped
        without `find_unused` has no gradient: those of others were not averaged then.
        """
        ...

    def gather_rows(self, rows: Tensor, dim: int = 0) -> Tensor:
        """The ranks' tensors joined along `dim`, in the order of ranks. They may differ in size along `dim` only."""
        ...

    def gather_shards(self, shards: Sequence[Tensor], rows: int) -> list[Tensor]:
        """What `gather_rows` makes of each, in one exchange: the first dimension is this rank's `shard` of `rows`."""
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
    stacked = 1

    def wrap(self, model: nn.Module, find_unused: bool) -> Any:
        return model

    def check_gradients(self, model: nn.Module) -> None:
        pass

    def gather_rows(self, rows: Tensor, dim: int = 0) -> Tensor:
        return rows

    def gather_shards(self, shards: Sequence[Tensor], rows: int) -> list[Tensor]:
        return list(shards)

    def gather_with_gradient(self, rows: Tensor) -> Tensor:
        return rows

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        pass


class ProcessGroup:
    """The ranks of torch.distributed's default process group, which must be initialised."""

    stacked = 1

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world = dist.get_world_size()
        self._find_unused = False

    def wrap(self, model: nn.Module, find_unused: bool) -> Any:
        device = next(model.parameters()).device
        self._find_unused = find_unused
        return nn.parallel.DistributedDataParallel(
            model, device_ids=[device] if device.type == "cuda" else None, find_unused_parameters=find_unused
        )

    def check_gradients(self, model: nn.Module) -> None:
        if self._find_unused:
            return
        unused = [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
        if unused:
            raise UnusedParametersError(
                f"the loss gives {len(unused)} parameters of the student no gradient ({', '.join(unused[:3])}"
                f"{', and more' if len(unused) > 3 else ''}), which {self.world} workers must know before: a loss term that "
                "does not go through the student's logits declares `TermNeeds(bypasses_head=True)`"
            )

    def gather_rows(self, rows: Tensor, dim: int = 0) -> Tensor:
        rows = rows.transpose(0, dim)
        return self._join(rows, self._counts(rows)).transpose(0, dim)

    def _counts(self, rows: Tensor) -> list[int]:
        count = torch.tensor([rows.shape[0]], device=rows.device)
        counts = [torch.empty_like(count) for _ in range(self.world)]
        dist.all_gather(counts, count)
        return [int(c) for c in counts]

    def _join(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        # gloo and NCCL both want equal shapes
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: rows.shape[0]] = rows
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def gather_shards(self, shards: Sequence[Tensor], rows: int) -> list[Tensor]:
        counts = shares(rows, self.world)
        widths = [math.prod(each.shape[1:]) * each.element_size() for each in shards]
        packed = torch.cat([_bytes_of(each) for each in shards], dim=1)  # [rows, bytes]: numbers of all kinds in one tensor
        return [
            part.clone(memory_format=torch.contiguous_format).view(each.dtype).view(rows, *each.shape[1:])
            for part, each in zip(torch.split(self._join(packed, counts), widths, dim=1), shards, strict=True)
        ]

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
        counts = ranks._counts(rows)
        ctx.ranks, ctx.start, ctx.rows = ranks, sum(counts[: ranks.rank]), rows.shape[0]
        return ranks._join(rows.detach(), counts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous().clone()
        ctx.ranks.sum_([total])
        return total[ctx.start : ctx.start + ctx.rows], None


def _bytes_of(rows: Tensor) -> Tensor:
    """Shape [rows, bytes]."""
    return rows.reshape(len(rows), math.prod(rows.shape[1:])).contiguous().view(torch.uint8)


def shard(rows: np.ndarray, rank: int, world: int) -> np.ndarray:
    """The contiguous part of `rows` that a rank works on; the ranks' parts in order are `rows`."""
    return np.array_split(rows, world)[rank]


def shares(rows: int, world: int) -> list[int]:
    """How many of `rows` each rank's `shard` has."""
    return [len(part) for part in np.array_split(np.arange(rows), world)]


def own_rows(global_rows: int, ranks: Ranks) -> slice:
    """Where this rank's rows lie in a global batch."""
    if ranks.world == 1:
        return slice(None)
    counts = shares(global_rows, ranks.world)
    before = sum(counts[: ranks.rank])
    return slice(before, before + counts[ranks.rank])


def own_part(values: Tensor, global_rows: int, ranks: Ranks) -> Tensor:
    """The rank's part of [..., global batch]; a value for all samples stays as it is."""
    if ranks.world == 1 or values.dim() == 0 or values.shape[-1] == 1:
        return values
    return values[..., own_rows(global_rows, ranks)]


def of_all_ranks(values: Mapping[str, Tensor], global_rows: int, ranks: Ranks) -> dict[str, Tensor]:
    """Each [..., this rank's part of the global batch] as [..., global batch]: inverse of `own_part`, in one exchange."""
    if ranks.world == 1:
        return dict(values)
    found = ranks.gather_shards([own.movedim(-1, 0) for own in values.values()], global_rows)
    return {name: rows.movedim(0, -1) for name, rows in zip(values, found, strict=True)}


def is_broken_connection(error: BaseException) -> bool:
    """Whether this only says that the connection to another rank broke.

    gloo raises plain RuntimeErrors, with its source path in the text. NCCL also says in one of its own that memory ran out.
    """
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)
