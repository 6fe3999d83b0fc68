"""Whether every rank of a trial gets rows of every batch. No torch."""

from __future__ import annotations

from collections.abc import Mapping

from harness.errors import StudyError
from harness.study.schema import Study, TrainingSpec
from harness.study.yaml_lines import KeyPath
from strategies.space import Choice, Range

BATCHES = ("batch_size", "meta_batch_size")


def check_batch_sizes(study: Study, training: Mapping[str, TrainingSpec]) -> None:
    """Raises StudyError for a batch, given or searched for, of fewer rows than a trial has workers. `training`: by task."""
    for task, recipe in training.items():
        workers = study.resources.for_task(task).workers
        for name in BATCHES:
            own = name in study.training_per_task.get(task, {})
            given: KeyPath = ("training_per_task", task, name) if own else ("training", name)
            _require(int(getattr(recipe, name)), workers, name, task, given)
            if (space := study.search.space.get(name)) is not None:
                _require(_smallest(space), workers, name, task, ("search", "space", name))


def check_smallest_batch(study: Study, task: str, recipe: TrainingSpec, rows: Mapping[str, int]) -> None:
    """The same for the batches that so many rows of each role make: their sizes differ by one. Raises StudyError."""
    workers = study.resources.for_task(task).workers
    for role, name in (("fit", "batch_size"), ("meta", "meta_batch_size")):
        size = int(getattr(recipe, name))
        smallest = rows[role] // -(-rows[role] // size)
        if smallest < workers:
            raise StudyError(
                f"{rows[role]} {role} rows of {task!r} in batches of at most {size} ({name}) make one of {smallest}; a trial "
                f"has {workers} workers. Use fewer workers (resources.per_task.{task}.workers), another {name}, or more rows",
                ("training", name),
            )


def _require(size: int, workers: int, name: str, task: str, where: KeyPath) -> None:
    if size < workers:
        raise StudyError(
            f"{name} is the global batch, over all workers: {size} is fewer rows than the {workers} workers of a trial of "
            f"{task!r} (resources)",
            where,
        )


def _smallest(space: Range) -> int:
    return int(min(space.values)) if isinstance(space, Choice) else int(space.low)
