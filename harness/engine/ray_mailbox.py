"""How the supervisor of a group of ranks and its ranks talk to each other: trials go one way, news of them the other."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

import ray

ORDER = -1
"""In the place of an epoch: before the first one."""


@dataclass(frozen=True)
class Order:
    """A trial for all ranks of a group."""

    config: dict[str, Any]
    """As Tune has it (`ray_session.RouterSearcher`)."""
    resume: bool
    micro_batches: int
    """In so many parts a rank is to pass its batches (`harness.training.out_of_memory`)."""


@dataclass(frozen=True)
class News:
    """What happened in a group of ranks.

    epoch: which one, and its record as JSON, from rank 0. finished: a rank is through; rank 0 sends the packed outcome. failed:
    why a rank gave up. closed: the group is gone.
    """

    kind: Literal["epoch", "finished", "failed", "closed"]
    number: int = -1
    """Of the trial, counted from 1."""
    content: Any = None


class Mailbox:
    """An actor: holds what the ranks are told of the current trial, and the news that nobody has read yet."""

    def __init__(self) -> None:
        self._told: dict[tuple[int, int], Any] = {}
        """(trial, epoch) -> whether to stop after it; with ORDER the trial's Order, or None: no more trials are to come."""
        self._changed = asyncio.Condition()
        self._news: asyncio.Queue[News] = asyncio.Queue()

    async def tell(self, number: int, epoch: int, content: Any) -> None:
        async with self._changed:
            if epoch == ORDER:  # all ranks are through with the one before
                self._told.clear()
            self._told[number, epoch] = content
            self._changed.notify_all()

    async def told(self, number: int, epoch: int) -> Any:
        """Once it is there."""
        async with self._changed:
            await self._changed.wait_for(lambda: (number, epoch) in self._told)
            return self._told[number, epoch]

    async def post(self, news: News) -> None:
        await self._news.put(news)

    async def read(self) -> News:
        """The oldest unread news, once there is any."""
        return await self._news.get()


def start_mailbox() -> Any:
    """A handle on a mailbox, which lives as long as this process."""
    return ray.remote(num_cpus=0)(Mailbox).remote()
