"""TensorBoard's files, read back."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from harness.engine import inline
from harness.store.store import Store
from harness.watching.console import Console
from harness.watching.tensorboard import scalars
from tests.harness.tiny import prepared_plan, tiny_study


def events(file: Path) -> list[Event]:
    """TFRecord framing: length, its checksum, content, its checksum."""
    content, found = file.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        found.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return found


def test_every_epoch_is_a_step_of_its_trial(tmp_path: Path) -> None:
    study = tiny_study(strategies=["fixed_alpha", "rw_kd"], tensorboard=True)
    plan, prepared = prepared_plan(study, tmp_path / "cache")
    store = Store(tmp_path / "store")
    inline.run_plan(plan, prepared, store, Console(quiet=True), tmp_path / "cache")
    for record in store.records():
        folder = store.path / "tensorboard" / "sst2" / record.spec.label / "0" / "search-0"
        read = {
            (event.step, value.tag): value.simple_value
            for file in folder.iterdir()
            for event in events(file)
            for value in event.summary.value
        }
        expected = {(epoch.epoch + 1, name): value for epoch in record.epochs for name, value in scalars(epoch)}
        assert read == pytest.approx(expected, rel=1e-6)
        assert {"loss", "term/kd", "term/ce", "select/accuracy", "weight/kd", "weight/ce"} <= {name for _, name in read}


def test_without_the_option_there_are_none(tmp_path: Path) -> None:
    plan, prepared = prepared_plan(tiny_study(training={"epochs": 1}), tmp_path / "cache")
    inline.run_plan(plan, prepared, Store(tmp_path / "store"), Console(quiet=True), tmp_path / "cache")
    assert not (tmp_path / "store" / "tensorboard").exists()
