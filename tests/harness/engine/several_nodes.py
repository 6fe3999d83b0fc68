"""Clusters of several nodes on this machine. Processes of their own: they connect to other clusters than the other tests.

python -m tests.harness.engine.several_nodes FOLDER (four nodes, of which one is lost while a study trains across nodes, and one
that sees no cache); with `autoscaled` behind it: a head without CPUs, and nodes that Ray's autoscaler pretends to rent; with
`disturbed`: many short trials on nodes that come and go, and a worker that is killed for memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from harness.engine.cluster import ClusterError, connect, set_environment
from harness.records import EpochRecord, TrialSpec
from harness.store.store import Store
from harness.study.schema import Study
from harness.watching.console import Console
from tests.conftest import PROJECT
from tests.harness.engine.stand_in import stand_in_plan, stand_in_study, stand_in_train
from tests.harness.tiny import prepared_plan, tiny_study

RAY = str(Path(sys.executable).parent / "ray")
EPOCHS = 4
CELLS = 20
TRIALS = 200


def two_node_study(**resources: Any) -> Study:
    return tiny_study(
        strategies=["fixed_alpha", "ce_only"],
        training={"epochs": EPOCHS, "batch_size": 16, "learning_rate": 5e-3, "meta_batch_size": 8},
        resources=resources,
    )


def noting_train(
    spec: TrialSpec,
    cache: Path,
    ranks: Any = None,
    on_epoch: Callable[[EpochRecord, Callable[[Path], None]], None] | None = None,
    resume_from: Path | None = None,
    **_: Any,
) -> Any:
    """Real training that notes each epoch's node, and takes its time."""
    import ray

    from harness.training.trial import train_trial

    def noted(record: EpochRecord, write: Callable[[Path], None]) -> None:
        if on_epoch is not None:
            on_epoch(record, write)
        node = ray.get_runtime_context().get_node_id()
        line = {"label": spec.label, "rank": ranks.rank, "epoch": record.epoch, "node": node}
        with (cache / "log").open("a") as log:
            log.write(json.dumps(line) + "\n")
        time.sleep(0.3)

    return train_trial(spec, cache, ranks=ranks, on_epoch=noted, resume_from=resume_from)


def notes(cache: Path) -> list[dict[str, Any]]:
    file = cache / "log"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def lose_a_node(cluster: Any, cache: Path) -> None:
    """The one of rank 1, in the second epoch of the first trial."""
    while not (found := [note for note in notes(cache) if note["rank"] == 1 and note["epoch"] == 1]):
        time.sleep(0.05)
    (node,) = [node for node in cluster.list_all_nodes() if node.node_id == found[0]["node"]]
    cluster.remove_node(node, allow_graceful=False)


def run(folder: Path) -> None:
    set_environment()
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(3):
        cluster.add_node(num_cpus=1)
    cache = folder / "cache"
    study = two_node_study(engine="ray", workers=2, placement="strict_spread", concurrent_trials=1, retries=0)
    try:
        with connect(cluster.address, folder / "logs"):
            from harness.engine.ray_paths import require_shared
            from harness.engine.ray_tune import run_plan

            plan, prepared = prepared_plan(study, cache)
            require_shared({"cache": cache, "results": folder})
            threading.Thread(target=lose_a_node, args=(cluster, cache), daemon=True).start()
            run_plan(plan, prepared, Store(folder / "store"), Console(quiet=True), cache, train=noting_train)
            _ask_a_node_without_the_cache(cluster.address, folder)
    finally:
        cluster.shutdown()


def _ask_a_node_without_the_cache(address: str, folder: Path) -> None:
    """A node in a mount namespace of its own, where an empty file system lies over the cache."""
    import ray

    from harness.engine.ray_paths import require_shared

    own = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*own, "true"], capture_output=True, check=False).returncode:
        (folder / "refused").write_text("not tried")
        return
    start = f"{RAY} start --address={address} --num-cpus=1 --block --disable-usage-stats"
    command = [*own, "sh", "-c", f"mount -t tmpfs tmpfs {folder / 'cache'} && exec {start}"]
    before = sum(node["Alive"] for node in ray.nodes())
    with started(command, folder / "node.log") as node:
        while sum(node["Alive"] for node in ray.nodes()) == before:
            assert node.poll() is None, (folder / "node.log").read_text()
            time.sleep(0.1)
        try:
            require_shared({"cache": folder / "cache", "results": folder})
        except ClusterError as error:
            (folder / "refused").write_text(str(error))


@contextmanager
def started(command: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A `ray start --block`, which is ended at once."""
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **environment})
    try:
        yield process
    finally:
        end(process)
        process.wait(timeout=60)


def end(process: subprocess.Popen[bytes]) -> None:
    """As a machine that goes: all that it has started, with the nodes that an autoscaler pretends to have."""
    if process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()


def shipped_nodes() -> tuple[dict[str, Any], dict[str, Any]]:
    """The head and the worker nodes of studies/cluster/cluster.yaml."""
    types = yaml.safe_load((PROJECT / "studies" / "cluster" / "cluster.yaml").read_text("utf-8"))["available_node_types"]
    return types["head"], types["gpu"]


def autoscaled_study() -> Study:
    """A trial takes a node of the shipped cluster, as most of studies/glue_full.yaml do."""
    _, worker = shipped_nodes()
    cpus, gpus = worker["resources"]["CPU"], worker["resources"]["GPU"]
    resources = {
        "cpus_per_worker": cpus,
        "gpus_per_worker": gpus,
        "cluster_may_grow_to": [{"nodes": worker["max_workers"], "cpus": cpus, "gpus": gpus}],
    }
    return stand_in_study(["plain", "slow", "other", "fourth"], search={"trials": 2}, resources=resources)


def run_autoscaled(folder: Path) -> None:
    """`ray.cluster_utils.AutoscalingCluster` would end every other Ray on this machine, and 2.60 comes without its file."""
    from harness.engine.ray_tune import run_plan
    from tests.harness.engine.test_submission import free_port

    port, client_port = free_port(), free_port()
    head, worker = ({**kind, "node_config": {}} for kind in shipped_nodes())
    lists = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    config: dict[str, Any] = {
        "cluster_name": "pretended",
        "max_workers": worker["max_workers"],
        "provider": {"type": "fake_multinode", "gcs_address": f"127.0.0.1:{port}", "disable_node_updaters": True},
        "available_node_types": {"worker": worker, "ray.head.default": {**head, "max_workers": 0}},
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        **{key: {} for key in ("auth", "docker", "file_mounts")},
        **{f"{name}_commands": [] for name in lists},
    }
    (folder / "nodes.json").write_text(json.dumps(config))
    os.environ["RAY_AUTH_MODE"] = "disabled"  # or else `ray start` leaves a token in the home directory
    command = [RAY, "start", "--head", "--block", f"--num-cpus={head['resources']['CPU']}", f"--port={port}"]
    command += ["--node-ip-address=127.0.0.1", "--disable-usage-stats", "--include-dashboard=false", "--num-gpus=0"]
    command += [
        f"--ray-client-server-port={client_port}",
        f"--autoscaling-config={folder / 'nodes.json'}",
        "--object-store-memory=100000000",
    ]
    pretend = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    with started(command, folder / "head.log", **pretend) as process:
        while "Ray runtime started" not in (folder / "head.log").read_text():
            assert process.poll() is None, (folder / "head.log").read_text()
            time.sleep(0.2)
        plan, prepared = stand_in_plan(autoscaled_study())
        (folder / "cache").mkdir()
        with connect(f"127.0.0.1:{port}", folder / "logs"):
            run_plan(plan, prepared, Store(folder / "store"), Console(quiet=True), folder / "cache", train=stand_in_train)


def many_trials(**resources: Any) -> Study:
    """Twenty cells of ten trials, each of which takes a moment."""
    return tiny_study(
        strategies=["fixed_alpha", "ce_only", "kd_only", "random_weights", "rw_kd"],
        training={"epochs": 1, "batch_size": 16, "learning_rate": 5e-3, "meta_batch_size": 8},
        search={
            "trials": TRIALS // CELLS,
            "repeats": CELLS // 5,
            "space": {"learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}},
        },
        resources=resources,
    )


SPARE = 2 * 2**30
"""Bytes that more than now may be used of the machine before Ray kills workers on the last node."""


def hungry_train(spec: TrialSpec, cache: Path, **further: Any) -> Any:
    """Real training that says where it is. The first on the last node that finds `hungry` takes memory until it is killed."""
    from harness.training.trial import train_trial

    node = os.environ.get("NODE", "head")
    (cache / f"trained on {node}").touch()
    time.sleep(0.5)
    if node == "last" and (cache / "hungry").exists():
        (cache / "hungry").unlink()
        taken = []
        while len(taken) < 2 * SPARE // 2**27:
            taken.append(b"x" * 2**27)
            time.sleep(0.1)
        raise AssertionError("Ray has not killed this worker")
    return train_trial(spec, cache, **further)


def run_disturbed(folder: Path) -> None:
    """The head alone; two nodes join; the first of them is lost, and on the other a worker is killed for memory."""
    set_environment()
    from ray.cluster_utils import Cluster

    from harness.engine.ray_tune import run_plan

    os.environ["RAY_AUTH_MODE"] = "disabled"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    store, cache, over = Store(folder / "store"), folder / "cache", threading.Event()
    study = many_trials(engine="ray", retries=3, cluster_may_grow_to=[{"nodes": 3, "cpus": 1}])

    def wait_for(node: str) -> None:
        while not (cache / f"trained on {node}").exists() and not over.wait(0.1):
            pass

    def disturb() -> None:
        start = [RAY, "start", f"--address={cluster.address}", "--num-cpus=1", "--block", "--disable-usage-stats"]
        start += ["--object-store-memory=100000000"]
        wait_for("head")
        with started(start, folder / "first.log", NODE="first") as first:
            wait_for("first")
            memory = psutil.virtual_memory()
            threshold = f"{(memory.total - memory.available + SPARE) / memory.total:.4f}"
            with started(start, folder / "last.log", NODE="last", RAY_memory_usage_threshold=threshold):
                wait_for("last")
                end(first)
                (cache / "hungry").touch()
                over.wait()

    disturber = threading.Thread(target=disturb)
    try:
        with connect(cluster.address, folder / "logs"):
            plan, prepared = prepared_plan(study, cache)
            disturber.start()
            run_plan(plan, prepared, store, Console(quiet=True), cache, train=hungry_train)
    finally:
        over.set()
        disturber.join()
        cluster.shutdown()


RUNS: Mapping[str, Callable[[Path], None]] = {"": run, "autoscaled": run_autoscaled, "disturbed": run_disturbed}

if __name__ == "__main__":
    RUNS[" ".join(sys.argv[2:])](Path(sys.argv[1]))
