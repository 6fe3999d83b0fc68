"""The cluster files that the README points to: read by Ray's own loader where it has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from harness.plan.plan import load_plan
from tests.conftest import PROJECT

CLUSTER = PROJECT / "studies" / "cluster"


def read(name: str) -> dict[str, Any]:
    content = yaml.safe_load((CLUSTER / name).read_text("utf-8"))
    assert isinstance(content, dict)
    return content


def test_ray_up_accepts_the_cluster() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = read("cluster.yaml")
    prepared = prepare_config(config)
    validate_config(prepared)
    assert set(prepared["available_node_types"]) == {"head", "gpu"}
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = [command for command in config[commands] if "ray start" in command]
        assert "--disable-usage-stats" in start
        assert "HARNESS_CACHE=" in start
    assert "--dashboard-host=127.0.0.1" in str(config["head_start_ray_commands"])


def test_the_job_has_what_kuberay_requires() -> None:
    """Against the required fields of the RayJob CRD of KubeRay 1.x; its validator runs in a cluster only."""
    job = read("rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    known = {"entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "runtimeEnvYAML", "rayClusterSpec"}
    assert set(spec) == known
    cluster = spec["rayClusterSpec"]
    assert {"headGroupSpec", "workerGroupSpecs", "rayVersion", "authOptions"} == set(cluster)
    assert cluster["authOptions"] == {"mode": "token"}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())  # the CRD wants strings
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {"name", "image"} <= set(container)
            assert container["resources"]["limits"] == container["resources"]["requests"]
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    for group in cluster["workerGroupSpecs"]:
        assert {"groupName", "replicas", "minReplicas", "maxReplicas"} <= set(group)
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]["HARNESS_CACHE"].startswith("/shared")


def test_the_job_runs_the_readmes_command() -> None:
    command = read("rayjob.yaml")["spec"]["entrypoint"].split()
    readme = (PROJECT / "README.md").read_text("utf-8")
    assert f"ray job submit --working-dir . -- {' '.join(command[:4])}" in readme
    study = PROJECT / command[3]
    assert load_plan(study, command[5:]).study.results == "/shared/results"
    assert Path(study).is_file()
