"""Resources that Ray would keep for good: those of a killed Ray Train run, and of a placement group given up at once.

Ray removes a placement group when the actor *and* the job that made it have ended, so a run whose controller dies keeps its
workers' resources for the rest of the job. Ray Train has a watcher for that (`PlacementGroupCleaner`), but it needs the
dashboard, and dies itself when the cluster answers slowly (ray 2.60: an RpcError that it does not catch).

A placement group that is removed while it is being made takes its resources with it, until the cluster ends (ray 2.60: five of
thirty that were removed within a millisecond). Tune does that where a trial asks for a process just before another one becomes
free: whatever needs all of a node waits for ever after it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.air.execution import PlacementGroupResourceManager
from ray.tune.execution import tune_controller
from ray.util.placement_group import PlacementGroup, placement_group_table


class OrphanSweep:
    """Removes orphaned placement groups for a while after a trial was lost: its controller may outlive it for a moment."""

    SECONDS = 60.0
    INTERVAL = 1.0

    def __init__(self) -> None:
        self._until = 0.0
        self._next = 0.0

    def begin(self) -> None:
        self._until = time.monotonic() + self.SECONDS

    def step(self) -> None:
        """Cheap to call often."""
        now = time.monotonic()
        if self._next <= now < self._until:
            self._next = now + self.INTERVAL
            remove_orphaned_placement_groups()


def remove_orphaned_placement_groups() -> int:
    """Remove this job's placement groups whose creating actor is dead; how many."""
    # Missing in public: `ray.util.placement_group_table()` and `ray.util.state.list_placement_groups()` (which needs the
    # dashboard) do not say whether the actor that created a group is dead, and `ray.util.remove_placement_group` takes a
    # PlacementGroup, which only its creator gets.
    from ray import ActorID, PlacementGroupID
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData
    from ray.util.placement_group import PlacementGroup

    job = bytes.fromhex(ray.get_runtime_context().get_job_id())
    removed = 0
    for row in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(row)
        by_actor = group.creator_actor_id and not ActorID(group.creator_actor_id).is_nil()  # and not by the main process
        gone = group.state == PlacementGroupTableData.REMOVED
        if group.creator_job_id == job and by_actor and group.creator_actor_dead and not gone:
            ray.util.remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))
            removed += 1
    return removed


class SettledPlacementGroups(PlacementGroupResourceManager):  # type: ignore[misc]  # ray is untyped
    """Gives up no placement group before it is made, or waits for resources."""

    SECONDS = 5.0
    """It settles within this time, and then is as old as all that have settled."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._young: dict[PlacementGroup, float] = {}
        """Not known to be settled, asked for less than `SECONDS` ago -> when."""

    def request_resources(self, resource_request: Any) -> None:
        before = set(self._pg_to_request)
        super().request_resources(resource_request)
        now = time.monotonic()
        self._young = {group: since for group, since in self._young.items() if now - since < self.SECONDS}
        self._young |= dict.fromkeys(self._pg_to_request.keys() - before, now)

    def cancel_resource_request(self, resource_request: Any) -> None:
        self._settle()
        super().cancel_resource_request(resource_request)

    def clear(self) -> None:
        if ray.is_initialized():  # it is called by `__del__` too
            self._settle()
        super().clear()

    def _settle(self) -> None:
        for group, since in self._young.items():
            while time.monotonic() - since < self.SECONDS and not is_settled(group):
                time.sleep(0.001)
        self._young.clear()


def is_settled(group: PlacementGroup) -> bool:
    """Nobody is at work to make it: it is there, or there is no room for it, or it is gone."""
    about = placement_group_table(group)  # empty of one that is forgotten
    waits = about and about["stats"]["scheduling_state"] in ("NO_RESOURCES", "INFEASIBLE")
    return not about or waits or about["state"] not in ("PENDING", "PREPARED")


@contextmanager
def settled_placement_groups() -> Iterator[None]:
    """Tuners that are run meanwhile give up none before it is settled."""
    # Missing in public: `tune.Tuner` has no argument for the `resource_manager_factory` that its controller takes.
    before = tune_controller.PlacementGroupResourceManager
    tune_controller.PlacementGroupResourceManager = SettledPlacementGroups
    try:
        yield
    finally:
        tune_controller.PlacementGroupResourceManager = before
