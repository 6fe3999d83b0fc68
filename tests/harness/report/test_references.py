"""Tables say which teachers were trained elsewhere, and leave out those that are to be no reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.records import Score
from harness.report.caption import caption
from harness.report.leaderboard import Leaderboard, make_leaderboard
from harness.store.store import Store
from tests.harness.report.stores import Planted, build_store

HOME = {"name": "home", "model": "package:mini/model"}
FOREIGN = {"name": "theirs", "fine_tuned": {"sst2": "org/name"}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two teachers; the second scores 0.99 on fit, 0.7 on select and 0.96 on validation."""
    store = build_store(tmp_path / "planted", Planted(("sst2",), ("ce_only", "fixed_alpha"), trials=1, rows=60))
    for record in store.records():
        teacher = record.spec.teachers[0]
        two = [teacher.model_copy(update={"name": name}) for name in ("home", "theirs")]
        scores = {"fit": 0.99, "select": 0.7, "validation": 0.96}
        theirs = {part: Score(rows=9, metrics={"accuracy": value}) for part, value in scores.items()}
        home = {"validation": Score(rows=9, metrics={"accuracy": 0.93})}
        spec = record.spec.model_copy(update={"teachers": two, "teacher_digests": ["7", "8"]})
        changed = record.model_copy(update={"spec": spec, "teacher_report": [home, theirs]})
        store.write(changed, store.predictions(record.key))
    return store


def board(store: Store, *teachers: dict[str, Any]) -> Leaderboard:
    manifest = store.manifest()
    study = manifest["study"]
    models = {**study["models"], "teachers": list(teachers)}
    store.write_manifest({**manifest, "study": {**study, "models": models}})
    return make_leaderboard(store.path, draws=100)


def test_the_caption_names_them_with_their_scores(store: Store) -> None:
    said = " ".join(caption(board(store, HOME, FOREIGN)))
    assert "theirs (fine-tuned: sst2 org/name)" in said
    assert "Trained elsewhere" in said
    assert "theirs (sst2 99.0 on fit, 70.0 on select, 96.0 on validation)" in said
    stored = {"name": "theirs", "outputs": {"sst2": {"train": "t.parquet"}}, "output_kind": "probabilities"}
    assert "theirs (stored probabilities)" in " ".join(caption(board(store, HOME, stored)))
    assert "elsewhere" not in " ".join(caption(board(store, HOME)))


def test_one_that_is_no_reference_enters_no_normalised_score(store: Store) -> None:
    both = board(store, HOME, FOREIGN)
    without = board(store, HOME, {**FOREIGN, "reference": False})
    assert both.teacher.tolist() == [0.96]
    assert without.teacher.tolist() == [0.93]
    assert any("theirs is no reference" in note for note in without.notes)
    none = board(store, {**HOME, "reference": False}, {**FOREIGN, "reference": False})
    assert np.isnan(none.teacher).all()
    assert np.isnan(none.normalised).all()
    assert any("there is no normalised score" in note for note in none.notes)
