from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import StoreError
from harness.records import CostRecord, Score
from harness.report.caption import caption
from harness.report.leaderboard import make_leaderboard
from harness.report.predictions import load_predictions
from harness.report.selection import select
from harness.store.store import Store
from tests.harness.report.stores import Planted, build_store

FEW = ("ce_only", "fixed_alpha")


def test_tasks_with_the_same_report_rows_are_one_data_set(tmp_path: Path) -> None:
    """Of files or the hub, too, where no `rows_of` says so: their luck is not independent."""
    store = build_store(tmp_path, Planted(("sst2", "rte", "qnli"), FEW, repeats=2, trials=1, rows=40))
    apart = make_leaderboard(tmp_path, draws=50)
    assert apart.selection.data_sets == (0, 1, 2)
    manifest = store.manifest()
    manifest["digests"]["qnli"]["validation"] = manifest["digests"]["sst2"]["validation"]
    store.write_manifest(manifest)
    selection = select(tmp_path)
    assert selection.data_sets == (0, 1, 0)
    together = [load_predictions(selection, task) for task in selection.tasks]
    assert [one.seeds.examples == together[0].seeds.examples for one in together if one and together[0]] == [True, False, True]
    assert (apart.units, make_leaderboard(tmp_path, draws=50).units) == (6, 4)


def test_the_best_by_selection_is_chosen_not_the_best_by_report(study: Path) -> None:
    selection = select(study)
    for row in selection.rows.values():
        trials = [
            r for r in selection.records if (r.spec.task.name, r.spec.label, r.spec.repeat) == (row.task, row.label, row.repeat)
        ]
        if row.state == "ok":
            assert row.record is not None
            assert row.record.objective == max(r.objective or 0 for r in trials)
    chosen = [row.record for row in selection.rows.values() if row.state == "ok" and row.record]
    best_report = {
        (r.spec.task.name, r.spec.label, r.spec.repeat): max(
            o.report["validation"].metrics[o.spec.task.headline_metric]
            for o in selection.records
            if o.report and (o.spec.task.name, o.spec.label, o.spec.repeat) == (r.spec.task.name, r.spec.label, r.spec.repeat)
        )
        for r in chosen
    }
    assert any(
        r.report["validation"].metrics[r.spec.task.headline_metric] < best
        for r, best in zip(chosen, best_report.values(), strict=True)
    )


def test_failures_score_the_majority_predictor(study: Path) -> None:
    selection = select(study)
    row = selection.rows["rte", "wsl", 1]
    assert (row.state, row.failed, row.done) == ("failed", 2, 2)
    assert row.record is not None
    assert row.score == row.record.majority["validation"].metrics["accuracy"]
    found = load_predictions(selection, "rte")
    assert found is not None
    said = found.predicted[selection.labels.index("wsl"), 1]
    assert len(set(said)) == 1
    assert (said == found.labels).mean() == pytest.approx(row.score)


def test_missing_and_unfinished_cells(tmp_path: Path) -> None:
    build_store(tmp_path, Planted(("sst2",), FEW, trials=3, rows=20, missing=frozenset({("sst2", "ce_only", 0)})))
    store = Store(tmp_path)
    last = next(r for r in store.records() if r.spec.label == "fixed_alpha" and r.spec.repeat == 1 and r.spec.index == 2)
    (tmp_path / "trials" / last.key[:2] / f"{last.key}.json").unlink()
    selection = select(tmp_path)
    states = {(label, repeat): row.state for (_, label, repeat), row in selection.rows.items()}
    assert states == {
        ("ce_only", 0): "missing",
        ("ce_only", 1): "ok",
        ("fixed_alpha", 0): "ok",
        ("fixed_alpha", 1): "incomplete",
    }
    assert not selection.complete
    assert np.isnan(selection.scores[:, 0]).tolist() == [[True, False], [False, True]]
    assert np.isnan(selection.shown_scores[:, 0]).tolist() == [[True, False], [False, False]]


def test_a_damaged_record_leaves_its_cell_unfinished(tmp_path: Path) -> None:
    store = build_store(tmp_path, Planted(("sst2",), FEW, repeats=1, trials=2, rows=20))
    key = store.records()[0].key
    (tmp_path / "trials" / key[:2] / f"{key}.json").write_text("{")
    selection = select(tmp_path)
    assert [damage.key for damage in selection.damage] == [key]
    assert selection.rows["sst2", "ce_only", 0].state == "incomplete"


def test_winner_mode_takes_the_final_runs(tmp_path: Path) -> None:
    build_store(tmp_path, Planted(("sst2",), FEW, repeats=3, trials=2, rows=20, repeat="winner"))
    selection = select(tmp_path)
    assert selection.winner
    assert selection.repeats == 3
    assert {row.record.spec.purpose for row in selection.rows.values() if row.record} == {"final"}
    assert selection.complete
    (tmp_path / "manifest.json").unlink()
    assert {p: r.score for p, r in select(tmp_path).rows.items()} == {p: r.score for p, r in selection.rows.items()}


def test_without_a_manifest_the_cells_are_inferred(study: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(study, tmp_path / "copy", ignore=shutil.ignore_patterns("manifest.json"))
    ours, theirs = select(study), select(copy)
    assert set(theirs.tasks) == set(ours.tasks)
    assert {place: row.score for place, row in theirs.rows.items()} == {place: row.score for place, row in ours.rows.items()}


def test_trials_of_an_earlier_form_of_the_study_are_left_out(tmp_path: Path) -> None:
    store = build_store(tmp_path, Planted(("sst2",), FEW, repeats=1, trials=1, rows=20))
    old = store.records()[0]
    spec = old.spec.model_copy(update={"strategy_code": "before"})
    newer = old.model_copy(update={"spec": spec, "key": spec.key, "objective": 1.0, "finished_at": "2099-01-01"})
    store.write(newer, store.predictions(old.key))
    assert select(tmp_path).rows["sst2", "ce_only", 0].record == newer  # without `trials`: the latest
    manifest = store.manifest()
    store.write_manifest({**manifest, "trials": [r.key for r in store.records() if r.key != newer.key]})
    selection = select(tmp_path)
    assert selection.rows["sst2", "ce_only", 0].record == old
    assert "1 stored trials belong to another form" in selection.warnings[0]


def test_scores_on_other_rows_are_not_mixed(tmp_path: Path) -> None:
    store = build_store(tmp_path, Planted(("sst2",), FEW, repeats=2, trials=1, rows=20))
    odd = store.records()[0]
    spec = odd.spec.model_copy(update={"data_digest": "other"})
    store.write(odd.model_copy(update={"spec": spec, "key": spec.key}), store.predictions(odd.key))
    (tmp_path / "trials" / odd.key[:2] / f"{odd.key}.json").unlink()
    selection = select(tmp_path)
    assert selection.rows["sst2", "ce_only", 0].state == "missing"
    assert "different sets of rows" in selection.warnings[0]


def test_teachers_of_one_recipe_that_came_out_different_are_told(tmp_path: Path) -> None:
    store = build_store(tmp_path, Planted(("sst2", "rte"), FEW, repeats=2, trials=1, rows=20))
    assert not select(tmp_path).warnings
    odd = next(record for record in store.records() if record.spec.task.name == "sst2")
    report = [{"validation": Score(rows=20, metrics={"accuracy": 0.125})}]
    store.write(odd.model_copy(update={"teacher_report": report}), store.predictions(odd.key))
    (said,) = select(tmp_path).warnings
    assert "trials of sst2 had different teachers" in said
    assert "12.50%" in said
    store.write(odd, store.predictions(odd.key))
    for record in store.records():  # the same scores, and yet other outputs
        content = ["other" if record.key == odd.key else "one"]
        store.write(record.model_copy(update={"teacher_contents": content}), store.predictions(record.key))
    (said,) = select(tmp_path).warnings
    assert "trials of sst2 had different teachers" in said


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"environment": {"torch": "2.8"}}, "MIXED torch version in one column, so that differences between its cells may be "),
        ({"environment": {"torch": "2.7", "processor": "another"}}, "MIXED processor"),
        ({"cost": CostRecord(device="cpu", precision="bf16")}, "MIXED precision"),
    ],
)
def test_what_trials_of_a_task_do_not_share_is_said_in_the_caption(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    store = build_store(tmp_path, Planted(("sst2", "rte"), FEW, repeats=2, trials=1, rows=20))
    assert not [sentence for sentence in caption(make_leaderboard(tmp_path)) if "MIXED" in sentence]
    odd = next(record for record in store.records() if record.spec.task.name == "sst2")
    store.write(odd.model_copy(update=changed), store.predictions(odd.key))
    (sentence,) = [sentence for sentence in caption(make_leaderboard(tmp_path)) if "MIXED" in sentence]
    assert said in sentence
    assert "sst2: " in sentence
    assert "rte" not in sentence


def test_predictions_are_lined_up_and_damaged_ones_left_out(tmp_path: Path) -> None:
    store = build_store(tmp_path, Planted(("sst2",), FEW, repeats=2, trials=1, rows=20))
    selection = select(tmp_path)
    found = load_predictions(selection, "sst2")
    assert found is not None
    assert found.present.all()
    row = selection.rows["sst2", "fixed_alpha", 1]
    assert (found.predicted[1, 1] == found.labels).mean() == pytest.approx(row.score)
    assert row.record is not None
    path = tmp_path / "predictions" / row.record.key[:2] / f"{row.record.key}.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:-30] + b"x" * 30)
    found = load_predictions(selection, "sst2")
    assert found is not None
    assert found.present.tolist() == [[True, True], [True, False]]
    assert "sha256" in selection.warnings[0]
    assert store.path == tmp_path


def test_nothing_to_report_on_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no finished trial"):
        select(tmp_path / "none")


def test_an_older_store_makes_a_report() -> None:
    selection = select(Path(__file__).parents[1] / "fixtures" / "store_v1")
    assert selection.rows["sst2", "fixed_alpha", 0].state == "ok"
    # version 1 did not record what a failed trial scores
    assert selection.rows["sst2", "ce_only", 0].state == "missing"
