"""A cluster of four nodes on this machine, one of which is lost while a study trains across nodes, and one that sees no cache.

python -m tests.harness.engine.several_nodes FOLDER. A process of its own: it connects to another cluster than the other tests.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


if __name__ == "__main__":
    run(Path(sys.argv[1]))
