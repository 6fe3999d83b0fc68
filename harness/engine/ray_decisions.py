"""The way back from the searches to running trials: whether to go on after an epoch. For studies with early stopping."""

from __future__ import annotations

import asyncio
from typing import Any

import ray

from harness.engine.cluster import HEAD_NODE
from harness.training.hooks import StoppedEarly


class Decisions:
    """An actor. Every rank of a trial waits for the decision on each epoch, so that all of them do the same."""

    def __init__(self) -> None:
        self._made: dict[str, dict[int, bool]] = {}
        self._changed = asyncio.Condition()

    async def decide(self, key: str, epoch: int, stop: bool) -> None:
        async with self._changed:
            # what was decided before a trial lost its process stays
            self._made.setdefault(key, {}).setdefault(epoch, stop)
            self._changed.notify_all()

    async def wait(self, key: str, epoch: int) -> bool:
        async with self._changed:
            await self._changed.wait_for(lambda: epoch in self._made.get(key, {}))
            return self._made[key][epoch]

    async def forget(self, key: str) -> None:
        self._made.pop(key, None)


def start_decisions() -> Any:
    """A handle on the actor, which lives as long as this process, beside it: no other node's loss takes it away."""
    return ray.remote(num_cpus=0, resources=HEAD_NODE)(Decisions).remote()


def go_on_or_stop(decisions: Any, key: str, epoch: int) -> None:
    """Waits for the decision on a trial's epoch. Raises StoppedEarly. `decisions` None: no early stopping."""
    if decisions is not None and ray.get(decisions.wait.remote(key, epoch)):
        raise StoppedEarly
