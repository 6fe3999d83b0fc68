"""Folders that all nodes of a cluster must see: the results (checkpoints) and the cache (rows, tokens, teacher outputs).

Files and not Ray's object store carry them: they are memory-mapped by all trials of a node, and outlive the cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.engine.cluster import ClusterError

_SECONDS = 120


def require_shared(folders: Mapping[str, Path]) -> None:
    """Every node of the connected cluster sees and can write these folders, else ClusterError. Name -> absolute path."""
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if len(nodes) < 2:
        return
    tokens = {name: folder / f".shared-{uuid4().hex}" for name, folder in folders.items()}
    for token in tokens.values():
        token.parent.mkdir(parents=True, exist_ok=True)
        token.touch()
    try:
        look = ray.remote(num_cpus=0, max_retries=3)(_problems)
        on = {node: NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes}
        asked = {look.options(scheduling_strategy=there).remote(tokens): node for node, there in on.items()}
        answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=_SECONDS)
        found = [(asked[answer], problem) for answer in answered for problem in ray.get(answer)]
        found += [(asked[one], f"did not answer within {_SECONDS} s") for one in silent]
    except ray.exceptions.RayError as error:
        raise ClusterError(f"a node of the cluster could not be asked which folders it sees: {error}") from error
    finally:
        for token in tokens.values():
            token.unlink(missing_ok=True)
    if found:
        listed = "; ".join(f"node {nodes[node]} ({node[:12]}) {problem}" for node, problem in sorted(found))
        raise ClusterError(
            f"{len({node for node, _ in found})} of the cluster's {len(nodes)} nodes do not see a folder that trials read and "
            f"write: {listed}. Put it on a file system that all nodes share, under one path: the cache with the environment "
            f"variable HARNESS_CACHE, the results with `results` in the study (--set results=FOLDER)."
        )


def _problems(tokens: Mapping[str, Path]) -> list[str]:
    """Runs on a node."""
    found = []
    for name, token in tokens.items():
        if not token.exists():
            found.append(f"does not see the {name}, {token.parent}")
            continue
        own = token.with_name(f"{token.name}-{uuid4().hex}")
        try:
            own.touch()
            own.unlink()
        except OSError as error:
            found.append(f"cannot write to the {name}, {token.parent} ({error.strerror})")
    return found
