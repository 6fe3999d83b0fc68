"""Says when nodes of the cluster come and go while trials run."""

from __future__ import annotations

import time
from typing import Any

import ray

from harness.watching import Watcher


class NodeWatch:
    """Asks Ray every few seconds. Stays in the process that made it: Tune pickles callbacks, and gets an empty shell."""

    INTERVAL = 2.0

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._alive: dict[str, dict[str, float]] | None = None
        self._next = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def step(self) -> set[str]:
        """Nodes that were lost since the last call. Cheap to call often."""
        if time.monotonic() < self._next:
            return set()
        self._next = time.monotonic() + self.INTERVAL
        alive = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
        lost: set[str] = set()
        if self._alive is not None:
            lost = self._alive.keys() - alive.keys()
            for node in lost:
                self._tell("node_lost", node, self._alive[node])
            for node in alive.keys() - self._alive.keys():
                self._tell("node_joined", node, alive[node])
        self._alive = alive
        return lost

    def _tell(self, kind: str, node: str, resources: dict[str, float]) -> None:
        self._watcher.happened(kind, node=node[:12], cpus=resources.get("CPU", 0.0), gpus=resources.get("GPU", 0.0))
