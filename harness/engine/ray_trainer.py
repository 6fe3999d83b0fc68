"""Ray Train's trainer without its watcher for orphaned placement groups: `ray_orphans` does that work.

Of a cluster without a dashboard, Ray Train's asks in vain: it holds up the end of every group of ranks by 12 s (Ray 2.60), and
takes a process for each.
"""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchTrainer


class Trainer(TorchTrainer):  # type: ignore[misc]  # ray is untyped
    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ != "PlacementGroupCleanerCallback"]
