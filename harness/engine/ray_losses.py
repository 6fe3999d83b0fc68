"""How often a trial that lost its processes is tried again, and after how long."""

from __future__ import annotations

from collections import Counter

from harness.records import ErrorRecord

NODE_LOSSES = 20
"""A trial may lose so many nodes beside its `resources.retries`: spot machines go, and it is not its fault."""
LONGEST_WAIT = 60.0


class Losses:
    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._own: Counter[str] = Counter()
        self._nodes: Counter[str] = Counter()
        self._devices: set[str] = set()

    def wait(self, key: str, error: ErrorRecord, node: bool = False) -> float | None:
        """Note a loss; seconds until the next try, or None where there is none.

        One with its `node` does not use up a retry. After a CUDA error there is one more try, whatever the retries.
        """
        if error.kind == "device":
            first = key not in self._devices
            self._devices.add(key)
            return 0.0 if first else None
        losses, allowed = (self._nodes, NODE_LOSSES) if node else (self._own, self._retries)
        losses[key] += 1
        return None if losses[key] > allowed else min(LONGEST_WAIT, 2.0 ** (losses[key] - 1))

    def is_last(self, key: str) -> bool:
        """Whether the next loss that is charged to the trial ends it."""
        return self._own[key] >= self._retries

    def was_a_node(self, key: str) -> None:
        """A loss that was charged to the trial turns out to have been its node's."""
        self._own[key] -= 1
        self._nodes[key] += 1
