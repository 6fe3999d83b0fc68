"""The Ray cluster that trials run on: one that exists, or one on this machine for as long as the study runs."""

from __future__ import annotations

import gc
import logging
import math
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import UserError
from harness.study.resources import NodeShape, TaskResources

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0, the only way to a silent Tune
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths keep their meaning on workers
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the default of 2 s adds 4 to 5 s to every start of a worker group
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the store keeps what there is to keep
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # Tune's snapshots grow with the study, and nothing reads them
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # `ray_tune` has its own
    "TUNE_FORCE_TRIAL_CLEANUP_S": "10",
}
"""For Ray's libraries. A value that the user has set stays."""

OBJECT_STORE_BYTES = 128 * 2**20
"""Of a cluster of our own: only outcomes pass through the object store; data and teacher outputs are files."""

Item = TypeVar("Item")
Result = TypeVar("Result")

HEAD_NODE = {"node:__internal_head__": 0.001}
"""A resource request that reserves nothing. Tune refuses an empty one."""


class ClusterError(UserError):
    """A cluster that cannot be reached, or that can never hold a trial."""


def set_environment() -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextmanager
def connect(address: str | None, log_dir: Path, *, cpus: int | None = None, gpus: int | None = None) -> Iterator[None]:
    """Connected to Ray: at `address`, else at RAY_ADDRESS, else to a cluster started here, which ends with the context.

    In a process that is connected already, that connection is used and kept. `log_dir`/ray becomes a link to the logs of a
    cluster started here. SIGTERM raises KeyboardInterrupt from then on. Raises ClusterError.

    A cluster of our own listens on this machine's loopback alone, if this is what imports Ray first (`_on_loopback`), and
    has a token that only this process and Ray's own know (unless the user has one, or has set RAY_AUTH_MODE), and no dashboard.
    """
    set_environment()
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    with _on_loopback(address):
        import ray

    if ray.is_initialized():
        yield
        return
    own: dict[str, Any] = {}
    if address == "local":
        _choose_token()
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # 195 MB to watch for what cannot happen here
        own = {
            "num_cpus": cpus,
            "num_gpus": gpus,
            "include_dashboard": False,  # ten processes and 1 GB; Ray's own clusters have one
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    _log_quietly()
    try:
        try:
            _knock(address)
            with _on_loopback(address):
                context = ray.init(address=address, log_to_driver=False, configure_logging=False, **own)
        except OSError as error:  # ConnectionError from Ray
            raise ClusterError(
                f"no Ray cluster answers at {address!r} (from --address or RAY_ADDRESS): {error}. Start one with "
                f"`ray start --head`, or leave the address out to run on this machine."
            ) from error
        if own:
            _link(log_dir / "ray", Path(context.address_info["session_dir"], "logs"))
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # `ray job stop`: as Ctrl-C
        yield
    finally:
        ray.shutdown()


def ray_resources(resources: TaskResources) -> dict[str, float]:
    """What one worker takes of a node, by Ray's names."""
    wanted = {
        "CPU": resources.cpus_per_worker,
        "GPU": resources.gpus_per_worker,
        "memory": float(resources.memory_per_worker),
    }
    return {name: amount for name, amount in wanted.items() if amount > 0}


def ray_slots(resources: TaskResources, may_grow_to: Sequence[NodeShape] = ()) -> int:
    """How many trials of this shape the connected cluster can run at once, if nothing else runs on it, as it is or as it may
    become.
    """
    import ray

    there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    kinds = [(shape.nodes, {"CPU": shape.cpus, "GPU": shape.gpus, "memory": shape.memory}) for shape in may_grow_to]
    grown = [has for nodes, has in kinds for _ in range(nodes)]
    return max(_slots(resources, there), _slots(resources, grown))


def _slots(resources: TaskResources, nodes: Iterable[Mapping[str, float]]) -> int:
    ranks = []  # that each node holds
    for has in nodes:
        fits = [math.floor(has.get(name, 0.0) / wanted + 1e-9) for name, wanted in ray_resources(resources).items()]
        ranks.append(min(fits, default=1))
    if resources.placement != "strict_spread":
        return sum(ranks) // resources.workers
    most = sum(ranks) // resources.workers
    return next((n for n in range(most, 0, -1) if sum(min(held, n) for held in ranks) >= n * resources.workers), 0)


def require_slots(task: str, resources: TaskResources, may_grow_to: Sequence[NodeShape] = ()) -> int:
    """`ray_slots`, or ClusterError where a trial of the task fits nowhere."""
    import ray

    slots = ray_slots(resources, may_grow_to)
    if slots == 0:
        has = {name: ray.cluster_resources().get(name, 0.0) for name in ("CPU", "GPU", "memory")}
        memory = f" and {resources.memory_per_worker / 2**30:.1f} GiB of memory" if resources.memory_per_worker else ""
        grow = (
            "nor would one hold it that has grown to `resources.cluster_may_grow_to`"
            if may_grow_to
            else "and `resources.cluster_may_grow_to` names no nodes that an autoscaler could add"
        )
        raise ClusterError(
            f"a trial of {task} wants {_number(resources.workers, 'worker')}{_apart(resources)} with "
            f"{_number(resources.cpus_per_worker, 'CPU')} and {_number(resources.gpus_per_worker, 'GPU')}{memory} each; the "
            f"cluster has {_number(len(ray.nodes()), 'node')} with {_number(has['CPU'], 'CPU')}, {_number(has['GPU'], 'GPU')} "
            f"and {has['memory'] / 2**30:.1f} GiB in all, which hold no such trial, {grow}. Change `resources` (or "
            f"`resources.per_task.{task}`) in the study, or use a larger cluster."
        )
    return slots


def _number(amount: float, name: str) -> str:
    return f"{amount:g} {name}{'' if amount == 1 else 's'}"


def _apart(resources: TaskResources) -> str:
    return " on different nodes" if resources.placement == "strict_spread" else ""


TRIES = 4
"""Of a task whose process or node dies. Ray's own retries after a kill for memory have no end."""
FIRST_WAIT = 1.0
"""Seconds before the second of them, and twice as long before each further one."""


def map_tasks(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    cpus: Callable[[Item], float],
    gpus: Callable[[Item], float],
    after_out_of_memory: Callable[[Item], Item] = lambda item: item,
) -> Iterator[tuple[Item, Result | BaseException]]:
    """`function` of every item, as Ray tasks, in the order in which they end. An item's exception is its result.

    A task whose process or node dies is tried again, later each time; one that raises is not. `after_out_of_memory`: what is
    tried in an item's place once the machine had no memory left for it.
    """
    import ray

    def call(item: Item) -> Result:  # Ray takes no functools.partial
        try:
            return function(item)
        finally:
            gc.collect()  # the process goes on to the next one

    again = ray.remote(call)
    alone = ray.remote(max_calls=1)(call)  # what a process leaves on a GPU is gone before trials start

    def start(item: Item) -> Any:
        # starting one and its imports take seconds, which trials are spared that find one of these
        remote = alone if gpus(item) > 0 else again
        return remote.options(num_cpus=cpus(item), num_gpus=gpus(item), max_retries=0).remote(item)

    due = [(0.0, item, item, 1) for item in items]
    """By time.monotonic() when, in which item's place what, and its how manieth try."""
    pending: dict[Any, tuple[Item, Item, int]] = {}
    while due or pending:
        for one in [one for one in due if one[0] <= time.monotonic()]:
            due.remove(one)
            pending[start(one[2])] = one[1:]
        wait = max(0.0, min(one[0] for one in due) - time.monotonic()) if due else None
        if not pending:
            time.sleep(wait or 0.0)
            continue
        for done in ray.wait(list(pending), timeout=wait)[0]:
            item, tried, tries = pending.pop(done)
            try:
                yield item, ray.get(done)
            except ray.exceptions.RayTaskError as error:
                yield item, error.cause if isinstance(error.cause, Exception) else error
            except ray.exceptions.RayError as error:
                if tries == TRIES:
                    yield item, error
                    continue
                if isinstance(error, ray.exceptions.OutOfMemoryError):
                    tried = after_out_of_memory(tried)
                due.append((time.monotonic() + FIRST_WAIT * 2 ** (tries - 1), item, tried, tries + 1))


def _knock(address: str) -> None:
    """Raises OSError where nobody listens at host:port, or, for `auto`, at the address that the last `ray start` here left.

    Ray itself would try for minutes.
    """
    left = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    if address == "auto" and left.is_file():
        address = left.read_text("utf-8").strip()
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


LOOPBACK = {"linux": "lo", "darwin": "lo0"}
"""Name of the interface, by `sys.platform`."""


@contextmanager
def _on_loopback(address: str) -> Iterator[None]:
    """Where `address` is `local`: what is imported and started here, and what that starts, listens on loopback alone.

    Ray's servers bind to the address of their node alone where that is 127.0.0.1. Ray 2.60 has no public way to say so:
    `ray.init(_node_ip_address="127.0.0.1")` takes the machine's outer address. This variable, read when Ray is first imported,
    lets it do what it does by itself on macOS and Windows, where there are no clusters of several machines.
    """
    wanted = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    if (interface := LOOPBACK.get(sys.platform)) is not None:  # of process groups
        wanted |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
    added = wanted.keys() - os.environ.keys() if address == "local" else set()
    os.environ.update({name: wanted[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _choose_token() -> None:
    """A token for this process's clusters, unless the user has one. Without, Ray would write one into the home directory."""
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    if not any(name in os.environ for name in names) and not Path("~/.ray/auth_token").expanduser().exists():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # stays: Ray reads it once in a process's life


def _log_quietly() -> None:
    """Ray's messages go where this process's logging goes, and not to the terminal."""
    from ray._private import worker

    logger = logging.getLogger("ray")
    logger.handlers, logger.propagate = [], True

    def log_lines(data: dict[str, Any], ignore_prefix: bool) -> None:
        for line in data["lines"]:
            logger.warning("%s: %s", data["pid"], line)

    # Missing in public: messages of Ray's servers (a worker died) are printed, whatever `log_to_driver` says.
    worker.print_to_stdstream = log_lines


def _link(link: Path, target: Path) -> None:
    """A convenience, which not every file system has: nothing depends on it."""
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    except OSError as error:
        logging.getLogger(__name__).info("no link to Ray's logs in %s: %s", target, error)
