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
    micro_batches: int = 1
    """In so many parts a rank is to pass its batches (`harness.training.out_of_memory`)."""
    student_folder: str | None = None
    """Where rank 0 is to leave the student."""


@dataclass(frozen=True)
class News:
    """What happened in a group of ranks.

    epoch: its metrics, from rank 0. finished: a rank is through; rank 0 sends the packed outcome. failed: why a rank gave up.
    closed: the group is gone.
    """

    kind: Literal["epoch", "finished", "failed", "closed"]
    number: int = -1
    content: Any = None


class Mailbox:
    """An actor: holds the current order, and the news that nobody has read yet."""

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


def start_mailbox() -> Any:
    """A handle on a mailbox, which lives as long as this process."""
    return ray.remote(num_cpus=0)(Mailbox).remote()
