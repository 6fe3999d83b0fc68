from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import StoreError
from harness.report.selection import select
from harness.store.merge import merge_stores
from harness.store.store import Store
from harness.study.comparisons import ProtocolSpec
from tests.harness.report.stores import Planted, build_store

FEW: dict[str, Any] = {"repeats": 1, "trials": 1, "rows": 20}
STRATEGIES = ("ce_only", "fixed_alpha")


def stores(folder: Path, **second: Any) -> tuple[Store, Store]:
    """Two machines' shares of one study: the first ran cola, the second cola's fixed_alpha and rte."""
    a = build_store(folder / "a", Planted(("cola",), STRATEGIES, **FEW))
    b = build_store(folder / "b", Planted(("cola", "rte"), STRATEGIES[1:], **{**FEW, **second}))
    return a, b


def test_trials_of_both_are_in_the_merged_store(tmp_path: Path) -> None:
    a, b = stores(tmp_path)
    merged = merge_stores([a.path, b.path], tmp_path / "both")
    assert (merged.added, merged.already_there, merged.conflicts, merged.damaged) == (3, 1, [], [])
    both = Store(tmp_path / "both")
    assert set(both.keys()) == set(a.keys()) | set(b.keys())
    assert both.verify() == []
    selection = select(both.path)
    assert {place for place, row in selection.rows.items() if row.state == "ok"} == {
        ("cola", "ce_only", 0), ("cola", "fixed_alpha", 0), ("rte", "fixed_alpha", 0),
    }  # fmt: skip
    again = merge_stores([a.path, b.path], tmp_path / "both")
    assert (again.added, again.already_there) == (0, 4)


def test_what_a_part_says_of_its_own_task_holds_in_the_whole(tmp_path: Path) -> None:
    a, b = stores(tmp_path)
    for store, said in ((a, {"cola": {"train_rows": 40}}), (b, {"rte": {"label_noise": 0.2}})):
        manifest = store.manifest()
        store.write_manifest({**manifest, "study": {**manifest["study"], "data_per_task": said}})
    for order in ([a.path, b.path], [b.path, a.path]):
        merge_stores(order, tmp_path / order[0].name / "whole")
        study = Store(tmp_path / order[0].name / "whole").manifest()["study"]
        assert study["data_per_task"] == {"cola": {"train_rows": 40}, "rte": {"label_noise": 0.2}}


def test_tasks_of_the_other_store_keep_its_data_and_training(tmp_path: Path) -> None:
    a = build_store(tmp_path / "a", Planted(("cola",), STRATEGIES, **FEW))
    b = build_store(tmp_path / "b", Planted(("rte",), STRATEGIES, flipped=0.4, **FEW))
    manifest = b.manifest()
    manifest["study"] |= {"training": {"epochs": 9}, "training_per_task": {"rte": {"batch_size": 4}}}
    b.write_manifest(manifest)
    for _ in range(2):  # what was merged can be merged again
        merge_stores([a.path, b.path], tmp_path / "both")
        both = select(tmp_path / "both")
        assert [both.label_noise(task) for task in ("cola", "rte")] == [0.0, 0.4]
        assert both.manifest["study"]["training_per_task"] == {"rte": {"epochs": 9, "batch_size": 4}}


def test_a_part_that_was_stopped_keeps_its_trials(tmp_path: Path) -> None:
    a, b = stores(tmp_path)
    a.write_manifest({**a.manifest(), "trials": a.keys()})  # which a run writes at its end
    for order in ([a.path, b.path], [b.path, a.path]):
        merge_stores(order, tmp_path / order[0].name / "whole")
        selection = select(tmp_path / order[0].name / "whole")
        assert {record.key for record in selection.records} == set(a.keys()) | set(b.keys())


def test_students_come_along_with_the_trials_that_are_kept(tmp_path: Path) -> None:
    a, b = stores(tmp_path)
    cola = next(record.key for record in b.records() if record.spec.task.name == "cola")
    rte = next(record.key for record in b.records() if record.spec.task.name == "rte")
    for key in (cola, rte):
        b.student_folder(key).mkdir(parents=True)
        (b.student_folder(key) / "model.safetensors").write_text(key)
    merged = merge_stores([a.path, b.path], tmp_path / "both")
    both = Store(tmp_path / "both")
    assert [(both.student_folder(key) / "model.safetensors").read_text() for key in (cola, rte)] == [cola, rte]
    assert merged.students == 2
    assert "2 students copied" in merged.text()
    assert merge_stores([b.path], tmp_path / "both").students == 0

    (record,) = [record for record in b.records() if record.key == cola]
    b.write(record.model_copy(update={"objective": 0.123}), b.predictions(cola))
    assert merge_stores([a.path, b.path], tmp_path / "other").conflicts
    assert not Store(tmp_path / "other").student_folder(cola).exists()  # another student than the one that stays


def test_the_merged_store_does_not_tell_where_the_others_lay(tmp_path: Path) -> None:
    a, b = stores(tmp_path)
    merge_stores([a.path, b.path], tmp_path / "all")
    said = (tmp_path / "all" / "events.jsonl").read_text("utf-8")
    assert '"sources": ["a", "b"]' in said
    assert str(tmp_path) not in said


def test_conflicts_are_named_and_the_first_stays(tmp_path: Path) -> None:
    a, b = stores(tmp_path)
    record = next(r for r in b.records() if r.spec.task.name == "cola")
    changed = record.model_copy(deep=True, update={"objective": 0.123, "environment": {"torch": "9"}})
    b.write(changed, b.predictions(record.key))
    merged = merge_stores([a.path, b.path], tmp_path / "both")
    assert len(merged.conflicts) == 1
    said = str(merged.conflicts[0])
    assert "cola/fixed_alpha/0/0" in said
    assert "0.123" in said
    assert "torch" in said
    assert str(a.path) in said
    kept = Store(tmp_path / "both").get(record.key)
    assert kept is not None
    assert kept.objective == record.objective
    assert "conflict" in merged.text()


def test_a_success_replaces_a_failure(tmp_path: Path) -> None:
    b = build_store(tmp_path / "b", Planted(("rte",), STRATEGIES[1:], **FEW))
    (ok,) = b.records()
    failed = ok.model_copy(update={"status": "failed", "objective": None, "report": {}})
    a = Store(tmp_path / "a")
    a.write(failed, None)
    assert [r.status for r in a.records()] == ["failed"]
    merged = merge_stores([a.path, b.path], tmp_path / "both")
    assert merged.replaced_failures == 1
    assert merged.conflicts == []
    assert [r.status for r in Store(tmp_path / "both").records()] == ["ok"]


def test_damage_is_left_out_and_named(tmp_path: Path) -> None:
    a, b = stores(tmp_path)
    key = b.keys()[0]
    (b.path / "trials" / key[:2] / f"{key}.json").write_text("")
    merged = merge_stores([a.path, b.path], tmp_path / "both")
    assert key in merged.damaged[0]


def test_other_rows_or_models_are_refused(tmp_path: Path) -> None:
    a, b = stores(tmp_path)
    manifest = b.manifest()
    b.write_manifest({**manifest, "digests": {**manifest["digests"], "cola": {"fit": "other"}}})
    with pytest.raises(StoreError, match="different rows of cola"):
        merge_stores([a.path, b.path], tmp_path / "both")
    manifest["study"]["models"] = {"student": "another"}
    b.write_manifest(manifest)
    with pytest.raises(StoreError, match="`models`"):
        merge_stores([a.path, b.path], tmp_path / "both")
    assert not (tmp_path / "both" / "trials").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"strategies": [{"name": "fixed_alpha", "settings": {"kd_weight": 0.9}}]}, "'fixed_alpha' is .*kd_weight"),
        ({"training": {"epochs": 9}}, "differ in how cola is trained"),
        ({"training_per_task": {"cola": {"epochs": 9}}}, "differ in how cola is trained"),
    ],
)
def test_one_label_with_two_settings_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    few = {"repeats": 1, "trials": 1, "rows": 20}
    a, b = (build_store(tmp_path / name, Planted(("cola",), ("fixed_alpha",), **few)) for name in "ab")
    manifest = b.manifest()
    manifest["study"] |= change
    b.write_manifest(manifest)
    with pytest.raises(StoreError, match=says):
        merge_stores([a.path, b.path], tmp_path / "both")
    assert not (tmp_path / "both" / "trials").exists()


def test_nothing_to_merge_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no trial"):
        merge_stores([tmp_path / "none"], tmp_path / "both")


def test_an_older_store_without_declared_comparisons_has_the_default(tmp_path: Path) -> None:
    few = {"repeats": 1, "trials": 1, "rows": 20}
    stores = [build_store(tmp_path / name, Planted(("sst2",), ("fixed_alpha", name), **few)) for name in ("wsl", "rw_kd")]
    manifest = stores[0].manifest()
    default = ProtocolSpec().model_dump(mode="json")
    manifest["study"]["protocol"] |= {name: default[name] for name in ("comparisons", "margin")}
    stores[0].write_manifest(manifest)
    merge_stores([store.path for store in stores], tmp_path / "merged")
    manifest["study"]["protocol"]["margin"] = 2.0
    stores[0].write_manifest(manifest)
    with pytest.raises(StoreError, match="differ in the study's `protocol`"):
        merge_stores([store.path for store in stores], tmp_path / "again")
