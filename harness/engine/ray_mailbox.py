"""How the supervisor of a group of ranks and its ranks talk to each other: trials go one way, news of them the other."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

import ray


@dataclass(frozen=True)
class Order:
    """A trial for all ranks of a group. `spec` None: no more trials are to come."""

    number: int
    spec: str | None
    """A TrialSpec as JSON."""
    checkpoint: str = ""
    """Where rank 0 keeps the state after each epoch."""
    resume: bool = False


@dataclass(frozen=True)
class News:
    """epoch: plain metrics of an epoch. finished: the packed outcome. failed: an ErrorRecord as JSON. closed: the group is gone."""

    kind: Literal["epoch", "finished", "failed", "closed"]
    number: int = -1
    content: Any = None


@ray.remote(num_cpus=0)
class Mailbox:
    """Holds the current order, and the news that nobody has read yet."""

    def __init__(self) -> None:
        self._order: Order | None = None
        self._changed = asyncio.Condition()
        self._news: asyncio.Queue[News] = asyncio.Queue()

    async def give(self, order: Order) -> None:
        async with self._changed:
            self._order = order
            self._changed.notify_all()

    async def order_after(self, number: int) -> Order:
        """The current order, once its number is above `number`."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._order is not None and self._order.number > number)
            assert self._order is not None
            return self._order

    async def post(self, news: News) -> None:
        await self._news.put(news)

    async def read(self) -> News:
        """The oldest unread news, once there is any."""
        return await self._news.get()
