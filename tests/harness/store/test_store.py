from __future__ import annotations

import errno
import json
import os
import pickle
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.errors import StoreError
from harness.records import ErrorRecord, TrialRecord
from harness.store.store import Store
from tests.harness.report.stores import make_spec

OLD = Path(__file__).parents[1] / "fixtures" / "store_v1"


def record(index: int = 0, **changes: object) -> TrialRecord:
    spec = make_spec("sst2", "fixed_alpha", index=index, settings={"alpha": 0.25})
    return TrialRecord.model_validate({"key": spec.key, "status": "ok", "spec": spec, "objective": 0.75} | changes)


def predictions(rows: int = 12) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    p = rng.uniform(size=rows).astype("float32")
    return pd.DataFrame(
        {"split": "validation", "id": np.arange(rows), "label": rng.integers(0, 2, rows), "predicted": (p > 0.5).astype(int)}
        | {"p0": 1 - p, "p1": p}
    )


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    store, made, rows = Store(tmp_path / "store"), record(), predictions()
    store.write(made, rows)
    other = Store(tmp_path / "store")
    assert other.get(made.key) == made
    assert other.records() == [made]
    read = other.predictions(made.key)
    pd.testing.assert_frame_equal(read[["split", "id", "label", "predicted"]], rows.iloc[:, :4], check_dtype=False)
    assert read["p1"].dtype == np.float32
    np.testing.assert_allclose(read["p1"], rows["p1"], atol=2**-11)
    assert not other.damaged
    assert other.verify() == []


def test_the_classes_of_a_split_are_those_of_the_frame_in_the_order_of_ids(tmp_path: Path) -> None:
    rows = pd.concat([predictions(), predictions(7).assign(split="validation_mismatched")]).sample(frac=1.0, random_state=0)
    store = Store(tmp_path / "store")
    store.write(record(), rows)
    for split in ("validation", "validation_mismatched"):
        found = store.predicted_classes(record().key, split)
        expected = rows[rows["split"] == split].sort_values("id")[["id", "label", "predicted"]]
        np.testing.assert_array_equal(np.stack(found, axis=1), expected)


def test_an_empty_store_is_empty_and_reading_makes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "none")
    assert store.records() == []
    assert store.get("0" * 24) is None
    assert store.manifest() == {}
    assert store.frame().empty
    assert not (tmp_path / "none").exists()


def test_a_record_of_the_same_key_replaces_the_older_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    error = ErrorRecord(kind="bug", type="ValueError", message="no")
    store.write(record(), predictions())
    store.write(record(status="failed", objective=None, error=error), None)
    assert [r.status for r in store.records()] == ["failed"]
    with pytest.raises(StoreError, match="no predictions"):
        store.predictions(record().key)
    store.write(record(), predictions())
    assert [r.status for r in store.records()] == ["ok"]


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    if kind == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "changed":
        path.write_bytes(content.replace(b'"objective":0.75', b'"objective":0.85'))
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"objective": 1.0}))
    elif kind == "newer":
        path.write_bytes(content.replace(b'"schema_version": 2', b'"schema_version": 99', 1))


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("cut", "cut off"),
        ("empty", "cut off"),
        ("changed", "sha256"),
        ("pickle", "not a trial record"),
        ("newer", "version 99"),
    ],
)
def test_damage_is_named_and_the_rest_is_read(tmp_path: Path, kind: str, says: str) -> None:
    store, bad, good = Store(tmp_path), record(0), record(1)
    store.write(bad, predictions())
    store.write(good, predictions())
    damage(tmp_path / "trials" / bad.key[:2] / f"{bad.key}.json", kind)
    assert store.get(bad.key) is None
    assert store.records() == [good]
    assert says in str(store.damaged[bad.key])
    assert bad.key in str(store.damaged[bad.key])
    store.write(bad, predictions())  # run again
    assert not store.damaged
    assert len(store.records()) == 2


def test_a_record_under_another_name_is_damage(tmp_path: Path) -> None:
    store, made = Store(tmp_path), record()
    store.write(made, None)
    other = tmp_path / "trials" / "ff" / ("f" * 24 + ".json")
    other.parent.mkdir()
    (tmp_path / "trials" / made.key[:2] / f"{made.key}.json").rename(other)
    assert store.get("f" * 24) is None
    assert "holds trial" in store.damaged["f" * 24].reason


def test_missing_or_changed_predictions_are_damage(tmp_path: Path) -> None:
    store, made = Store(tmp_path), record()
    store.write(made, predictions())
    path = tmp_path / "predictions" / made.key[:2] / f"{made.key}.parquet"
    content = path.read_bytes()
    path.unlink()
    assert store.get(made.key) is None
    assert "missing" in store.damaged[made.key].reason
    path.write_bytes(content[:-1])
    assert Store(tmp_path).get(made.key) is None
    path.write_bytes(content[:20] + bytes([content[20] ^ 1]) + content[21:])  # same size: only the checksum can tell
    with pytest.raises(StoreError, match="sha256"):
        store.predictions(made.key)
    assert [damage.key for damage in Store(tmp_path).verify()] == [made.key]


def test_schema_version_1_is_read() -> None:
    store = Store(OLD)
    records = store.records()
    assert not store.damaged
    assert [(r.spec.label, r.spec.index, r.status, r.schema_version) for r in records] == [
        ("ce_only", 0, "failed", 2),
        ("fixed_alpha", 0, "ok", 2),
        ("fixed_alpha", 1, "ok", 2),
    ]
    failed, ok, _ = records
    assert failed.error is not None
    assert "loss of ce_only" in failed.error.message
    assert (ok.spec.seeds.student, ok.spec.seeds.strategy, ok.spec.purpose) == (7, 7, "search")
    assert ok.report["validation"].rows == 20
    assert ok.cost.train_seconds == ok.cost.total_seconds > 0
    assert len(store.predictions(ok.key)) == 20
    assert store.frame().loc[1, "score"] == ok.report["validation"].metrics["accuracy"]


def test_no_space_says_so_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, first, second = Store(tmp_path), record(0), record(1)
    store.write(first, predictions())

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="no space left"):
            store.write(second, predictions())
        with pytest.raises(StoreError, match="no space left"):
            store.write_manifest({"study": {}})
    assert store.records() == [first]
    assert not store.damaged
    assert [p.name for p in tmp_path.rglob(".unfinished*")] == []


def test_an_unwritable_place_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        Store(tmp_path / "file" / "store").write(record(), None)


def test_manifest_and_events(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_manifest({"study": {"name": "ä"}})
    store.write_manifest({"study": {"name": "b"}})
    assert store.manifest() == {"schema_version": 2, "study": {"name": "b"}}
    store.event("started", cells=3)
    store.event("finished")
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"time": "cut o')
    assert [event["kind"] for event in store.events()] == ["started", "finished"]
    store.event("ended")
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'[1]\n"text"\n{"kind": "no time"}\n\xff\xfe\n\n')
    store.event("started", cells=4)
    assert [event["kind"] for event in store.events()] == ["started", "finished", "ended", "started"]
    (tmp_path / "manifest.json").write_text("[")
    with pytest.raises(StoreError, match="manifest"):
        store.manifest()


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    code = f"from harness.store.store import Store\nwith Store({str(tmp_path)!r}).writing(): pass"
    with Store(tmp_path).writing():
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "another process is writing" in other.stderr
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_readers_never_see_half_a_record(tmp_path: Path) -> None:
    store, made = Store(tmp_path), record()
    store.write(made, predictions())
    done = threading.Event()

    def rewrite() -> None:
        for _ in range(60):
            store.write(made, predictions())
        done.set()

    writer = threading.Thread(target=rewrite)
    writer.start()
    seen = 0
    while not done.is_set():
        reader = Store(tmp_path)
        assert reader.get(made.key) == made, reader.damaged
        seen += 1
    writer.join()
    assert seen > 10


def test_frame_has_one_flat_row_per_trial(tmp_path: Path) -> None:
    store = Store(tmp_path)
    scores = {"validation": {"rows": 12, "metrics": {"accuracy": 0.5}}}
    store.write(record(report=scores, majority=scores, teacher_report=[scores]), predictions())
    row = store.frame().iloc[0]
    assert (row["task"], row["label"], row["score"], row["teacher"], row["settings.alpha"]) == (
        "sst2",
        "fixed_alpha",
        0.5,
        0.5,
        0.25,
    )
    assert json.loads(row["settings"]) == {"alpha": 0.25}
    assert row["training.temperature"] == 2.0


def test_importing_the_store_is_cheap() -> None:
    code = (
        "import sys, harness.store.store; "
        "print([m for m in ('pandas','pyarrow','numpy','torch','scipy','matplotlib') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize("refused", ["chmod", "fsync of a folder"])
def test_a_file_system_without_permissions_or_synced_folders_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """As SMB, exFAT and mounted object stores are."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    def chmod(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if refused == "chmod":
        monkeypatch.setattr(os, "chmod", chmod)
    else:
        monkeypatch.setattr(os, "fsync", fsync)
    store = Store(tmp_path)
    with store.writing():
        store.write(record(), predictions())
    assert [one.key for one in store.records()] == [record().key]
    monkeypatch.undo()
    mask = os.umask(0)
    os.umask(mask)
    assert next(tmp_path.glob("trials/*/*.json")).stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_lock_that_cannot_be_had_is_the_stores_fault(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()  # as where nothing may be written: the system says no
    with pytest.raises(StoreError, match=r"\.lock"), Store(tmp_path).writing():
        pass
