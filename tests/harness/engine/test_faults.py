"""What goes wrong around trials, in one process. Lost processes and nodes: test_ray_tune.py, test_ray_train.py."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.engine import inline
from harness.errors import StoreError
from harness.store.store import Store
from harness.training.checkpoint import FILE, CheckpointError
from harness.training.failures import RETRIED, classify, is_retried
from harness.training.trial import train_trial
from harness.watching.console import Console
from tests.conftest import PROJECT
from tests.harness.engine.stand_in import stand_in_plan, stand_in_study, stand_in_train
from tests.harness.tiny import TEACHER, default_specs, prepared_plan, tiny_study

FULL = Path("/dev/full")  # every write to it meets the real ENOSPC
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


def kinds(store: Store) -> list[str]:
    return [event["kind"] for event in store.events()]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def flip_a_bit(file: Path) -> None:
    """In the middle, where a parameter lies: torch.load reads it without a word."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def no_checkpoint(file: Path) -> None:
    file.write_text("nothing of the kind")


@pytest.mark.parametrize("damage", [cut, flip_a_bit, no_checkpoint])
def test_a_damaged_checkpoint_is_said_and_its_trial_starts_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    cache = tmp_path / "cache"
    study = tiny_study()
    (spec,) = default_specs(study, cache)
    store = Store(tmp_path / "store")
    checkpoint = store.path / "running" / spec.key
    whole = train_trial(spec, cache, on_epoch=lambda _, write: write(checkpoint))
    damage(checkpoint / FILE)
    with pytest.raises(CheckpointError, match="cannot be read"):
        train_trial(spec, cache, resume_from=checkpoint)

    plan, prepared = prepared_plan(study, cache)
    inline.run_plan(plan, prepared, store, Console(quiet=True), cache)
    (said,) = [event for event in store.events() if event["kind"] == "checkpoint_damaged"]
    assert (said["cell"], said["key"]) == ("sst2/fixed_alpha/0", spec.key)
    assert "cannot be read" in said["error"]
    assert [event["epoch"] for event in store.events() if event["kind"] == "epoch"] == [1, 2]
    (record,) = store.records()
    assert [epoch.train_loss for epoch in record.epochs] == [epoch.train_loss for epoch in whole.record.epochs]


def test_an_interrupted_trial_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (spec,) = default_specs(tiny_study(), cache)
    store = Store(tmp_path / "store")
    whole = train_trial(spec, cache)

    def stop_after_the_first(record: Any, write: Any) -> None:
        write(store.path / "running" / spec.key)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_trial(spec, cache, on_epoch=stop_after_the_first)
    plan, prepared = prepared_plan(tiny_study(), cache)
    inline.run_plan(plan, prepared, store, Console(quiet=True), cache)
    assert [event["epoch"] for event in store.events() if event["kind"] == "epoch"] == [2]
    assert store.records()[0].report == whole.record.report


@needs_full
def test_a_checkpoint_that_finds_no_space_ends_the_study_and_blames_no_trial(tmp_path: Path) -> None:
    study = tiny_study(strategies=["ce_only", "fixed_alpha"])
    plan, prepared = prepared_plan(study, tmp_path / "cache")
    store = Store(tmp_path / "store")
    second = default_specs(study, tmp_path / "cache")[1]
    folder = store.path / "running" / second.key
    folder.mkdir(parents=True)
    (folder / f"{FILE}.tmp").symlink_to(FULL)
    with pytest.raises(StoreError, match=r"no space left on the disk .* says trial sst2/fixed_alpha/0/0"):
        inline.run_plan(plan, prepared, store, Console(quiet=True), tmp_path / "cache")
    assert [record.spec.label for record in store.records()] == ["ce_only"]
    (folder / f"{FILE}.tmp").unlink()
    inline.run_plan(plan, prepared, store, Console(quiet=True), tmp_path / "cache")
    assert [record.status for record in store.records()] == ["ok", "ok"]


@needs_full
def test_an_event_log_without_space_is_the_users_to_mend(tmp_path: Path) -> None:
    plan, prepared = stand_in_plan(stand_in_study(["a"]))
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "events.jsonl").symlink_to(FULL)
    with pytest.raises(StoreError, match="no space left on the disk"):
        inline.run_plan(plan, prepared, Store(tmp_path / "store"), Console(quiet=True), tmp_path, train=stand_in_train)


def test_a_study_on_a_full_disk_loses_nothing_and_goes_on_when_there_is_space(tmp_path: Path) -> None:
    """On a real file system of 400 kB."""
    own = ["unshare", "--user", "--map-root-user", "--mount"]
    if sys.platform != "linux" or subprocess.run([*own, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs leave to mount a file system")
    command = [*own, sys.executable, "-m", "tests.harness.engine.full_disk", str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "first run: no space left on the disk" in done.stdout
    assert "second run: " in done.stdout


def test_a_file_size_limit_is_said_and_loses_nothing(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from harness.store.store import Store; from harness.errors import StoreError\n"
        "from tests.harness.store.test_store import predictions, record\n"
        "store = Store(sys.argv[1]); store.write(record(0), predictions())\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: store.write(record(1), predictions(5000))\n"
        "except StoreError as error: print(error)\n"
        "print(len(store.records()), len(store.damaged), list(Path(sys.argv[1]).rglob('.unfinished*')))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    assert "cannot be written: File too large" in shown
    assert shown.endswith("1 0 []\n")


def test_a_teacher_that_fails_marks_its_cells_and_the_others_run(tmp_path: Path) -> None:
    good = {"config": TEACHER, "name": "good", "training": {"epochs": 1, "learning_rate": 1e-3}}
    bad = {**good, "name": "bad", "training": {"epochs": 1, "learning_rate": 1e30}}
    study = tiny_study(
        strategies=[
            {"name": "fixed_alpha", "label": "with_good", "teachers": ["good"]},
            {"name": "fixed_alpha", "label": "with_bad", "teachers": ["bad"]},
        ]
    )
    study = type(study).model_validate(study.model_dump() | {"models": {**study.models.model_dump(), "teachers": [good, bad]}})
    plan, prepared = prepared_plan(study, tmp_path / "cache")
    store = Store(tmp_path / "store")
    inline.run_plan(plan, prepared, store, Console(quiet=True), tmp_path / "cache")
    failed, ran = sorted(store.records(), key=lambda record: record.status)
    assert (ran.spec.label, ran.status) == ("with_good", "ok")
    assert failed.error is not None
    assert failed.error.kind == "teacher"
    assert "teacher 'bad' of sst2 could not be made: DivergedError" in failed.error.message
    assert failed.majority["validation"].rows == 40
    (said,) = [event for event in store.events() if event["kind"] == "trial_failed"]
    assert said["error_kind"] == "teacher"


def test_a_trial_that_returns_nan_and_one_that_raises(tmp_path: Path) -> None:
    plan, prepared = stand_in_plan(stand_in_study(["nan", "raises", "plain"], search={"trials": 1}))
    store = Store(tmp_path / "store")
    inline.run_plan(plan, prepared, store, Console(quiet=True), tmp_path, train=stand_in_train)
    ends = {record.spec.label: (record.status, record.error and record.error.type) for record in store.records()}
    assert ends == {"nan": ("ok", None), "raises": ("failed", "KeyError"), "plain": ("ok", None)}
    assert store.get(next(r.key for r in store.records() if r.spec.label == "nan")).objective is None  # type: ignore[union-attr]
    assert kinds(store).count("trial_finished") == 2
    assert kinds(store).count("trial_failed") == 1


def test_only_what_a_second_try_may_mend_is_retried() -> None:
    errors = [OSError("stale handle"), OSError(28, "No space left"), MemoryError(), KeyError("x"), FloatingPointError()]
    assert [is_retried(classify(error)) for error in errors] == [True, False, False, False, False]
    assert frozenset({"infrastructure"}) == RETRIED
