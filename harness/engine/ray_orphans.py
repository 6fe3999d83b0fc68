"""Gives back what a killed Ray Train run has reserved.

Ray removes a placement group when the actor *and* the job that made it have ended, so a run whose controller dies keeps its
workers' resources for the rest of the job. Ray Train has a watcher for that (`PlacementGroupCleaner`), but it needs the
dashboard, and dies itself when the cluster answers slowly (ray 2.60: an RpcError that it does not catch).
"""

from __future__ import annotations

import time

import ray


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
