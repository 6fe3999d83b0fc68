"""A cluster of four nodes on this machine, one of which is lost while a study trains across nodes, and one that sees no cache.

python -m tests.harness.engine.several_nodes FOLDER. A process of its own: it connects to another cluster than the other tests.
With `autoscaled` behind it: a head without CPUs, and up to two nodes that Ray's autoscaler pretends to rent.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from harness.engine.cluster import ClusterError, connect, set_environment
from harness.records import EpochRecord, TrialSpec
from harness.store.store import Store
from harness.study.schema import Study
from harness.watching.console import Console
from tests.harness.tiny import prepared_plan, tiny_study

EPOCHS = 4


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
    start = f"{Path(sys.executable).parent / 'ray'} start --address={address} --num-cpus=1 --block --disable-usage-stats"
    command = [*own, "sh", "-c", f"mount -t tmpfs tmpfs {folder / 'cache'} && exec {start}"]
    before = sum(node["Alive"] for node in ray.nodes())
    with (folder / "node.log").open("w") as log:
        node = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        while sum(node["Alive"] for node in ray.nodes()) == before:
            assert node.poll() is None, (folder / "node.log").read_text()
            time.sleep(0.1)
        try:
            require_shared({"cache": folder / "cache", "results": folder})
        except ClusterError as error:
            (folder / "refused").write_text(str(error))
    finally:
        node.terminate()
        node.wait(timeout=60)


def run_autoscaled(folder: Path) -> None:
    """`ray.cluster_utils.AutoscalingCluster` would end every other Ray on this machine, and 2.60 comes without its file."""
    from tests.harness.engine.conftest import StandInRun
    from tests.harness.engine.test_submission import free_port

    port, client_port = free_port(), free_port()
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    worker = {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2}
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    config: dict[str, Any] = {
        "cluster_name": "pretended",
        "max_workers": 2,
        "provider": {"type": "fake_multinode", "gcs_address": f"127.0.0.1:{port}", "disable_node_updaters": True},
        "available_node_types": {"worker": worker, "ray.head.default": head},
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
    }
    config |= {key: {} for key in ("auth", "docker", "file_mounts")}
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    config |= {f"{name}_commands": [] for name in commands} | {
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
    }
    (folder / "nodes.json").write_text(json.dumps(config))
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=0", f"--port={port}"]
    command += [
        "--node-ip-address=127.0.0.1",
        "--disable-usage-stats",
        "--include-dashboard=false",
        f"--ray-client-server-port={client_port}",
    ]
    command += [f"--autoscaling-config={folder / 'nodes.json'}", "--object-store-memory=100000000"]
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        while "Ray runtime started" not in (folder / "head.log").read_text():
            assert process.poll() is None, (folder / "head.log").read_text()
            time.sleep(0.2)
        may_become = [{"nodes": 2, "cpus": 1}]
        study = StandInRun(folder, ["plain", "slow"], search={"trials": 2}, resources={"cluster_may_grow_to": may_become})
        with connect(f"127.0.0.1:{port}", folder / "logs"):
            study()
    finally:
        for child in psutil.Process(process.pid).children(recursive=True):  # also those of the pretended nodes
            child.kill()
        process.wait(timeout=60)


if __name__ == "__main__":
    (run_autoscaled if sys.argv[2:] == ["autoscaled"] else run)(Path(sys.argv[1]))
