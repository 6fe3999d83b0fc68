"""A packed store reads as the open one did, whatever happens in between."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from harness.errors import StoreError
from harness.records import ErrorRecord
from harness.report import build_report
from harness.report.find_row import find_record
from harness.report.terminal import text
from harness.store.garbage import garbage_of_store
from harness.store.merge import merge_stores
from harness.store.pack import Pack
from harness.store.packing import pack_store, unpack_store
from harness.store.prediction_table import to_frame
from harness.store.store import Store
from tests.harness.report.stores import Planted, build_store, make_spec
from tests.harness.store.test_store import OLD, predictions, record

STRATEGIES = ("ce_only", "fixed_alpha", "rw_kd")
PLANTED = Planted(("sst2", "mnli"), STRATEGIES, trials=2, rows=30, failed=frozenset({("mnli", "rw_kd", 1)}))
FILES = ("records.parquet", "predictions.parquet", "events.parquet")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 trials: several row groups; of two and of three classes, of one and of two splits; two failed."""
    store = build_store(tmp_path_factory.mktemp("built") / "planted", PLANTED)
    for kind in ("started", "slots", "ended"):
        store.event(kind, trials=24, slots=1)
    return store.path


@pytest.fixture
def opened(built: Path, tmp_path: Path) -> Store:
    return Store(shutil.copytree(built, tmp_path / "planted"))


@pytest.fixture(autouse=True)
def _small_groups_and_no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.store.packing._GROUP", 5)
    monkeypatch.setattr(os, "fsync", lambda _: None)


def said(path: Path) -> dict[str, Any]:
    """All that a store says, to one who opens it now."""
    store = Store(path)
    records, keys = store.records(), store.keys()
    frames = {r.key: store.predictions(r.key).to_dict("list") for r in records if r.status == "ok"}
    texts = {key: sealed.text for key in keys if (sealed := store.sealed(key)) is not None}
    assert not store.damaged
    return {"records": records, "keys": keys, "frames": frames, "texts": texts, "events": store.events()}


def files(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file() and p.name != ".lock"}


def test_a_packed_store_says_what_the_open_one_said(opened: Store) -> None:
    before = said(opened.path)
    frame = opened.predictions(opened.keys()[0])
    packing = pack_store(opened)
    assert (packing.trials, packing.after < packing.before) == (24, True)
    assert sorted(files(opened.path)) == ["manifest.json", *sorted(f"pack/{name}" for name in (*FILES, "pack.json"))]
    assert said(opened.path) == before
    pd.testing.assert_frame_equal(opened.predictions(opened.keys()[0]), frame)  # also one who had it open before
    assert opened.events(last_run=True) == before["events"]
    assert Store(opened.path).verify() == []


def test_unpacked_it_has_the_same_files_again(opened: Store) -> None:
    before = files(opened.path)
    pack_store(opened)
    unpack_store(opened)
    assert files(opened.path) == before


def test_what_teachers_said_is_packed_and_merged(tmp_path: Path) -> None:
    """Of two and of three classes; what a later run adds lies beside the pack until it is packed again."""
    store = build_store(tmp_path / "store", replace(PLANTED, teachers_kept=True))
    before = files(store.path)
    tables = {name: to_frame(store.teacher_table(name)) for name in store.teachers()}
    assert len(tables) == 6
    pack_store(store)
    assert sorted(files(store.path)) == [
        "manifest.json",
        *sorted(f"pack/{name}" for name in (*FILES, "pack.json", "teachers.parquet")),
    ]
    other = Store(store.path)
    assert other.teachers() == sorted(tables)
    for name, frame in tables.items():
        pd.testing.assert_frame_equal(to_frame(other.teacher_table(name)), frame)
    merge_stores([store.path], tmp_path / "merged")
    assert {k: v for k, v in files(tmp_path / "merged").items() if k.startswith("teachers/")} == {
        k: v for k, v in before.items() if k.startswith("teachers/")
    }
    store.teacher_files.write("new", next(iter(tables.values())))
    pack_store(store)
    assert Store(store.path).teachers() == sorted([*tables, "new"])
    assert not (store.path / "teachers").exists()
    unpack_store(store)
    (new,) = (store.path / "teachers").glob("new-*.parquet")
    new.unlink()
    assert files(store.path) == before


def test_a_damaged_teacher_is_named_left_out_of_a_merged_store_and_not_packed(tmp_path: Path) -> None:
    store = build_store(tmp_path / "store", replace(PLANTED, teachers_kept=True))
    file = next((store.path / "teachers").glob("7-csst2-*.parquet"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"teacher 7-csst2 .*sha256 differs"):
        store.teacher_table("7-csst2")
    (damage,) = Store(store.path).verify()
    assert file.name in str(damage)
    merged = merge_stores([store.path], tmp_path / "merged")
    assert len(Store(tmp_path / "merged").teachers()) == 5
    assert [file.name in one for one in merged.damaged] == [True]
    before = files(store.path)
    with pytest.raises(StoreError, match="teacher 7-csst2"):
        pack_store(Store(store.path))
    assert files(store.path) == before


def test_the_same_store_gives_the_same_bytes(opened: Store, tmp_path: Path) -> None:
    other = Store(shutil.copytree(opened.path, tmp_path / "other"))
    pack_store(opened)
    pack_store(other)
    packed = files(opened.path)
    assert files(other.path) == packed
    pack_store(opened)
    assert files(opened.path) == packed
    unpack_store(other)
    pack_store(other)
    assert files(other.path) == packed


def test_a_record_of_an_older_schema_keeps_its_text(tmp_path: Path) -> None:
    store = Store(shutil.copytree(OLD, tmp_path / "old"))
    before = said(store.path)
    pack_store(store)
    assert said(store.path) == before
    assert {sealed.version for key in before["keys"] if (sealed := store.sealed(key)) is not None} == {1}
    unpack_store(store)
    assert said(store.path) == before


def test_what_is_not_a_number_stays_so(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = predictions().assign(p1=np.nan)
    store.write(record(), rows)
    before = store.predictions(record().key)
    assert before["p1"].isna().all()
    pack_store(store)
    pd.testing.assert_frame_equal(store.predictions(record().key), before)


def test_a_store_of_failures_is_packed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    error = ErrorRecord(kind="bug", type="ValueError", message="ä\u2028", traceback="line\nline")
    failed = record(status="failed", objective=None, error=error)
    store.write(failed, None)
    pack_store(store)
    assert Store(tmp_path).records() == [failed]
    with pytest.raises(StoreError, match="has no predictions"):
        store.predictions(failed.key)


def test_trials_that_are_run_later_count_and_are_taken_in(opened: Store) -> None:
    before = said(opened.path)
    pack_store(opened)
    failed = next(r for r in opened.records() if r.status == "failed")
    now_ok = record(key=failed.key, spec=failed.spec)
    spec = make_spec("rte", "fixed_alpha")
    new = record(key=spec.key, spec=spec)
    opened.write(now_ok, predictions())
    opened.write(new, predictions())
    opened.event("merged", added=2)
    more = said(opened.path)
    assert {r.key for r in more["records"]} == {*before["keys"], new.key}
    assert {r for r in before["keys"] if Store(opened.path).get(r) not in before["records"]} == {failed.key}
    assert more["events"][:-1] == before["events"]
    pack_store(opened)
    assert not (opened.path / "trials").exists()
    assert said(opened.path) == more
    failed_again = failed.model_copy(update={"finished_at": "later"})
    opened.write(failed_again, None)
    assert opened.get(failed.key) == failed_again
    with pytest.raises(StoreError, match="has no predictions"):
        opened.predictions(failed.key)  # not those of the packed record
    unpack_store(opened)
    assert said(opened.path)["records"] == [r if r.key != failed.key else failed_again for r in more["records"]]
    assert said(opened.path)["events"] == more["events"]


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "changed":
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif how == "missing":
        path.unlink()


@pytest.mark.parametrize("how", ["cut", "changed", "missing"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_what_was_written_is_named(opened: Store, name: str, how: str) -> None:
    key = next(r.key for r in opened.records() if r.status == "ok")
    pack_store(opened)
    damage(opened.path / "pack" / name, how)
    store = Store(opened.path)
    with pytest.raises(StoreError, match=rf"pack/{name} is (damaged|missing).*git checkout"):
        (store.records(), store.predictions(key), store.events())
    with pytest.raises(StoreError, match=name):
        store.verify()
    left = files(opened.path)
    for change in (pack_store, unpack_store):
        with pytest.raises(StoreError, match=name):
            change(Store(opened.path))
    assert files(opened.path) == left


@pytest.mark.parametrize("content", [b"", b"[]", b'{"pack_version": 1}', b'{"pack_version": 9, "files": {}}'])
def test_an_index_that_is_none_is_named(opened: Store, content: bytes) -> None:
    pack_store(opened)
    (opened.path / "pack" / "pack.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"pack/pack\.json is (damaged|of pack version 9)"):
        Store(opened.path).records()


@pytest.mark.parametrize("part", ["trials", "predictions"])
def test_a_store_with_a_damaged_trial_is_not_packed(opened: Store, part: str) -> None:
    key = next(r.key for r in opened.records() if r.status == "ok")
    (path,) = (opened.path / part).rglob(f"{key}.*")
    damage(path, "changed")
    before = files(opened.path)
    with pytest.raises(StoreError, match=key):
        pack_store(Store(opened.path))
    assert files(opened.path) == before


def test_nothing_to_pack_and_nothing_to_unpack_are_said(opened: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no trial"):
        pack_store(Store(tmp_path / "none"))
    with pytest.raises(StoreError, match="is not packed"):
        unpack_store(opened)


def changed(table: Any, column: str) -> Any:
    """In its last row."""
    values = table[column].to_pylist()
    values[-1] = "other" if column == "split" else values[-1] + 1
    kind = pa.string() if column == "split" else table[column].type
    return table.set_column(table.column_names.index(column), column, pa.array(values, kind))


@pytest.mark.parametrize("column", [None, "split", "predicted", "p1"])
def test_a_pack_that_does_not_read_back_removes_nothing(
    opened: Store, monkeypatch: pytest.MonkeyPatch, column: str | None
) -> None:
    before, read = files(opened.path), Pack.predictions

    def otherwise(pack: Pack, key: str, columns: Any = None) -> Any:
        table = read(pack, key, columns)
        return None if column is None or table is None else changed(table, column)

    monkeypatch.setattr(Pack, "predictions", otherwise)
    with pytest.raises(StoreError, match="does not read back"):
        pack_store(opened)
    assert files(opened.path) == before


class Killed(BaseException):
    pass


CHANGES_LEFT: list[int] = []
"""Changes of the file system before the process is dead; empty: none is counted."""


def _die(event: str, _: tuple[Any, ...]) -> None:
    if CHANGES_LEFT and event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
        CHANGES_LEFT[0] -= 1
        if CHANGES_LEFT[0] < 0:
            raise Killed  # from here on every change: what is dead clears nothing up


sys.addaudithook(_die)


@contextmanager
def killed_after(changes: int) -> Iterator[None]:
    CHANGES_LEFT.append(changes)
    try:
        yield
    finally:
        CHANGES_LEFT.clear()


@pytest.mark.parametrize("step", [pytest.param("pack", marks=pytest.mark.slow), "pack again", "unpack"])
def test_killed_at_any_moment_it_leaves_a_store_that_says_the_same(tmp_path: Path, step: str) -> None:
    store = Store(tmp_path / "store")
    made = [record(0), record(1), record(2, status="failed", objective=None)]
    store.write(made[0], predictions())
    store.write(made[2], None)
    store.event("started")
    if step != "pack":
        pack_store(store)
    store.write(made[1], predictions())
    store.write(made[0], predictions(9))
    store.event("ended")
    before, change = said(store.path), unpack_store if step == "unpack" else pack_store
    for changes in range(200):
        left = Store(shutil.copytree(store.path, tmp_path / f"killed {changes}"))
        try:
            with killed_after(changes):
                change(left)
        except Killed:
            assert said(left.path) == before, changes
            for garbage in list(garbage_of_store(left)):
                garbage.delete()
            assert said(left.path) == before, changes
            pack_store(left)
            assert said(left.path) == before, changes
            assert sorted(p.name for p in left.path.iterdir()) == [".lock", "pack"]
            continue
        break
    assert 8 < changes < 199
    assert said(left.path) == before


@pytest.mark.slow
def test_the_report_of_a_packed_store_has_the_same_bytes(opened: Store) -> None:
    first = build_report(opened.path)
    before = {path: path.read_bytes() for path in first.files}
    pack_store(opened)
    again = build_report(opened.path)
    assert {path: path.read_bytes() for path in again.files} == before
    assert text(again.board) == text(first.board)


def test_packed_stores_are_merged_into_packed_ones(tmp_path: Path) -> None:
    few = {"repeats": 1, "trials": 2, "rows": 20}
    a = build_store(tmp_path / "a", Planted(("cola",), STRATEGIES, **few))
    b = build_store(tmp_path / "b", Planted(("cola", "rte"), STRATEGIES, **few))
    merge_stores([a.path, b.path], tmp_path / "open")
    shutil.copytree(a.path, tmp_path / "goal")
    for path in (a.path, b.path, tmp_path / "goal"):
        pack_store(Store(path))
    merged = merge_stores([a.path, b.path], tmp_path / "goal")
    assert (merged.added, merged.already_there, merged.conflicts, merged.damaged) == (6, 12, [], [])
    both, expected = said(tmp_path / "goal"), said(tmp_path / "open")
    assert {**both, "events": []} == {**expected, "events": []}


def test_a_row_is_found_in_a_packed_store(opened: Store) -> None:
    rows = ("sst2/rw_kd", "mnli/rw_kd/1", "sst2/fixed_alpha/1/1", opened.keys()[5])
    before = [find_record(opened.path, row) for row in rows]
    pack_store(opened)
    assert [find_record(opened.path, row) for row in rows] == before
