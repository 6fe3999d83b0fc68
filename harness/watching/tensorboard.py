"""TensorBoard files of every trial, written from its epochs' records (`tensorboard: true` in a study)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.records import EpochRecord, TrialSpec
from harness.watching import Watcher


class TensorBoard(Watcher):
    """`<folder>/<task>/<label>/<repeat>/<purpose>-<trial>/`, a step for each epoch.

    A trial that is tried again goes on in its folder: epochs that were trained twice stand there twice.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def epoch(self, spec: TrialSpec, record: EpochRecord) -> None:
        from tensorboardX import SummaryWriter  # Ray Tune brings it along

        folder = self._folder / spec.cell_id / f"{spec.purpose}-{spec.index}"
        # a file for each epoch: hundreds of trials at once would exceed the open files, and a file is named after the second
        with SummaryWriter(logdir=str(folder), filename_suffix=f".epoch{record.epoch + 1}") as writer:
            for name, value in scalars(record):
                writer.add_scalar(name, value, record.epoch + 1)


def scalars(record: EpochRecord) -> Iterator[tuple[str, float]]:
    """Loss, mean unweighted terms, selection metrics, and mean weights of an epoch."""
    yield "loss", record.train_loss
    for group, values in (("term", record.terms), ("select", record.select)):
        for name, value in values.items():
            yield f"{group}/{name}", value
    for name, weights in record.weights.items():
        yield f"weight/{name}", weights.mean
    yield "seconds", record.seconds
