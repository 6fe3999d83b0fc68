"""The training rows that the student last got wrong."""

from __future__ import annotations

from strategies.lazy import torch


class HardRows:
    """Ids of at most `size` training rows: the first ones seen; from then on, rows that the student gets wrong replace random
    ones (`HardBuffer` in dataset/buffer.py of Rorozhl/MMKD).
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.ids = torch.empty(0, dtype=torch.int64)

    def add(self, ids: torch.Tensor, wrong: torch.Tensor, generator: torch.Generator) -> None:
        """Take in a batch: ids [batch] int64, wrong [batch] bool; draws from `generator` once it is full."""
        ids, order = ids.cpu().sort()  # the order within the batch has no say
        room = self.size - len(self.ids)
        if room > 0:
            self.ids = torch.cat([self.ids, ids[:room]])
            return
        hard = ids[wrong.cpu()[order]][: self.size]
        places = torch.randperm(self.size, generator=generator)[: len(hard)]
        self.ids = self.ids.index_copy(0, places, hard)

    def draw(self, rows: int, generator: torch.Generator) -> torch.Tensor:
        """Ids of so many distinct places, fewer where there are fewer, [rows] int64 on the CPU."""
        return self.ids[torch.randperm(len(self.ids), generator=generator)[:rows]]
