"""Teachers are made once, and their outputs are read by example id."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.data.roles import load_training_rows
from harness.prepare import _teacher_jobs
from harness.teacher_outputs import TeacherOutputs, teacher_folder
from harness.teachers import make_teacher
from tests.harness.tiny import TEACHER, prepared_plan, tiny_study


def test_outputs_cover_every_training_row_and_are_read_by_id(tmp_path: Path) -> None:
    _, prepared = prepared_plan(tiny_study(), tmp_path)
    digest = prepared["sst2"].teacher_digests["teacher"]
    outputs = TeacherOutputs.load(tmp_path, digest)
    rows = load_training_rows(tmp_path, prepared["sst2"].data_digest)
    ids = np.concatenate([rows.fit.ids, rows.meta.ids, rows.select.ids])
    assert outputs.logits(ids).shape == (len(ids), 2)
    shuffled = np.random.default_rng(0).permutation(ids)
    np.testing.assert_array_equal(outputs.logits(shuffled)[np.argsort(shuffled)], outputs.logits(np.sort(ids)))
    with pytest.raises(KeyError, match="no teacher output"):
        outputs.logits(np.array([10**9]))


def test_a_teacher_is_made_once(tmp_path: Path) -> None:
    _, prepared = prepared_plan(tiny_study(), tmp_path)
    folder = teacher_folder(tmp_path, prepared["sst2"].teacher_digests["teacher"])
    written = (folder / "teacher.json").stat().st_mtime_ns
    prepared_plan(tiny_study(), tmp_path)
    assert (folder / "teacher.json").stat().st_mtime_ns == written


def test_features_are_added_to_a_finished_teacher_without_training_it_again(tmp_path: Path) -> None:
    plan, prepared = prepared_plan(tiny_study(), tmp_path)
    (job,) = _teacher_jobs(plan, plan.tasks[0], prepared["sst2"].data_digest)
    written = (teacher_folder(tmp_path, job.digest) / "teacher.json").stat().st_mtime_ns
    digest = make_teacher(job.model_copy(update={"outputs": ("features",)}), tmp_path)
    assert digest == job.digest
    assert (teacher_folder(tmp_path, digest) / "teacher.json").stat().st_mtime_ns == written
    outputs = TeacherOutputs.load(tmp_path, digest, ("features",))
    assert outputs.features(outputs.ids[:3]).shape == (3, TEACHER["hidden_size"])


def test_recipe_and_rows_are_part_of_a_teachers_identity(tmp_path: Path) -> None:
    plan, prepared = prepared_plan(tiny_study(), tmp_path)
    (job,) = _teacher_jobs(plan, plan.tasks[0], prepared["sst2"].data_digest)
    longer = job.teacher.training.model_copy(update={"epochs": 5})
    others = [
        job.model_copy(update={"data_digest": "other"}),
        job.model_copy(update={"teacher": job.teacher.model_copy(update={"training": longer})}),
        job.model_copy(update={"teacher": job.teacher.model_copy(update={"seed": 9})}),
    ]
    assert len({job.digest, *(other.digest for other in others)}) == 4
    renamed = job.model_copy(update={"teacher": job.teacher.model_copy(update={"name": "other"})})
    assert renamed.digest == job.digest
