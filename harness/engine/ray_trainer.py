"""Ray Train's trainer without its watcher for orphaned placement groups, and on loopback where the rest of Ray is.

`ray_placement_groups` does the watcher's work. Of a cluster without a dashboard, Ray Train's asks in vain: it holds up the end
of every group of ranks by 12 s (Ray 2.60), and takes a process for each.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from datetime import timedelta
from typing import Any

import ray
from ray.train.torch import TorchConfig, TorchTrainer

LOOPBACK = "127.0.0.1"


class Trainer(TorchTrainer):  # type: ignore[misc]  # ray is untyped
    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, torch_config=LoopbackTorchConfig(), **named)

    def _create_default_callbacks(self) -> list[Any]:
        """Private, as is the name of the watcher: `ray.train.RunConfig` has no switch for it."""
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ != "PlacementGroupCleanerCallback"]


class LoopbackTorchConfig(TorchConfig):  # type: ignore[misc]
    @property
    def backend_cls(self) -> type:
        return LoopbackBackend


class LoopbackBackend(TorchConfig().backend_cls):  # type: ignore[misc]
    """Ray Train's own, but for the ranks of a cluster whose nodes are known by a loopback address.

    Ray Train lets rank 0 open a `TCPStore` by host and port, and torch then listens on all interfaces, whatever the host is.
    Here the store gets a socket that is bound to loopback.
    """

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        if not ipaddress.ip_address(worker_group.execute_single(0, ray.util.get_node_ip_address)).is_loopback:
            super().on_start(worker_group, backend_config)
            return
        ranks, timeout = len(worker_group), timedelta(seconds=backend_config.timeout_s)
        backend = "nccl" if worker_group.get_resources_per_worker().get("GPU", 0) > 0 else "gloo"
        port = worker_group.execute_single(0, open_store, ranks, timeout)
        joined = [worker_group.execute_single_async(rank, join, backend, rank, ranks, port, timeout) for rank in range(ranks)]
        ray.get(joined)


_stores: list[Any] = []
"""Of this process, if it is rank 0: from its call to `open_store` to that to `join`."""


def open_store(ranks: int, timeout: timedelta) -> int:
    """Runs in rank 0. The port at which the others find the store."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    listener = socket.create_server((LOOPBACK, 0))
    port = int(listener.getsockname()[1])
    store = TCPStore(LOOPBACK, port, ranks, True, timeout, wait_for_workers=False, master_listen_fd=listener.detach())
    _stores.append(store)
    return port


def join(backend: str, rank: int, ranks: int, port: int, timeout: timedelta) -> None:
    """Runs in every rank."""
    from torch.distributed import TCPStore, init_process_group  # type: ignore[attr-defined]

    store = _stores.pop() if rank == 0 else TCPStore(LOOPBACK, port, ranks, False, timeout)
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")  # as Ray Train sets it
    init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=timeout)
