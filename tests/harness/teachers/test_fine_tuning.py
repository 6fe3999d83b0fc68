"""Teachers are made once, and their outputs are read by example id."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console as RichConsole

from harness.data.output_names import dropout_draws
from harness.data.roles import load_training_rows
from harness.data.teacher_outputs import TeacherOutputs, teacher_folder
from harness.errors import ModelError
from harness.plan.plan import make_plan, trial_spec
from harness.ranks import Single
from harness.records import teacher_name
from harness.store.store import Store
from harness.study.data import GeneratedSpec
from harness.teachers import progress
from harness.teachers.export_outputs import keep_predictions
from harness.teachers.fine_tuning import REPORT, in_smaller_parts, make_teacher
from harness.teachers.prepare import _teacher_jobs, prepare, serial_map
from harness.training.trial import make_training
from harness.watching import console as console_module
from harness.watching.console import Console
from harness.watching.event_log import EventLog
from tests.harness.models.families import ALL
from tests.harness.tiny import STUDENT, TEACHER, prepared_plan, tiny_study


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


def test_a_teacher_with_rows_of_its_own_learns_more_and_its_students_see_the_same(tmp_path: Path) -> None:
    data = tiny_study().data.model_copy(update={"generated": GeneratedSpec(train_rows=1000, report_rows=200), "train_rows": 60})
    found = []
    for rows in (0, 940):
        recipe = {"config": TEACHER, "training": {"epochs": 4, "learning_rate": 1e-3}}
        models = {"student": {"config": STUDENT, "dropout": 0.0}, "teachers": [recipe]}
        study = tiny_study(data=data.model_copy(update={"teacher_rows": rows}), models=models)
        plan, prepared = prepared_plan(study, tmp_path)
        spec = trial_spec(plan, plan.cells[0], 0, {}, prepared)
        assert spec.model_copy(update={"data": data}).key == spec.key  # the digests tell them apart
        (teacher,) = [TeacherOutputs.load(tmp_path, digest) for digest in spec.teacher_digests]
        fit = make_training(spec, tmp_path, Single(), torch.device("cpu")).training.fit.encoded.ids
        found.append((spec.key, teacher.report["validation"].metrics["accuracy"], fit, teacher.ids))
    (alone, alone_score, alone_fit, alone_ids), (taught, taught_score, taught_fit, taught_ids) = found
    assert alone != taught
    assert taught_score > alone_score + 0.1
    np.testing.assert_array_equal(alone_fit, taught_fit)
    np.testing.assert_array_equal(alone_ids, taught_ids)


def test_no_process_is_started_for_a_teacher_that_is_there(tmp_path: Path) -> None:
    study = tiny_study(tasks=["sst2", "rte"])
    asked: list[list[str]] = []

    def map_function(function: Any, items: Any) -> Any:
        jobs = list(items)
        asked.append([job.task.name for job in jobs])
        return serial_map(function, jobs)

    def run() -> dict[str, str]:
        prepared = prepare(make_plan(study, tmp_path), tmp_path, Console(quiet=True), map_function)
        return {name: task.teacher_digests["teacher"] for name, task in prepared.items()}

    digests = run()
    assert run() == digests
    shutil.rmtree(teacher_folder(tmp_path, digests["rte"]))
    assert run() == digests
    assert asked == [["sst2", "rte"], [], ["rte"]]


def test_features_are_added_to_a_finished_teacher_without_training_it_again(tmp_path: Path) -> None:
    plan, prepared = prepared_plan(tiny_study(), tmp_path)
    (job,) = _teacher_jobs(plan, plan.tasks[0], prepared["sst2"].data_digest, tmp_path)
    written = (teacher_folder(tmp_path, job.digest) / "teacher.json").stat().st_mtime_ns
    digest = make_teacher(job.model_copy(update={"outputs": ("features",)}), tmp_path)
    assert digest == job.digest
    assert (teacher_folder(tmp_path, digest) / "teacher.json").stat().st_mtime_ns == written
    outputs = TeacherOutputs.load(tmp_path, digest, ("features",))
    assert outputs.features(outputs.ids[:3]).shape == (3, TEACHER["hidden_size"])


def test_further_outputs_are_added_to_a_finished_teacher(tmp_path: Path) -> None:
    """Each agrees with what it is a variant of: the last layer with the pooled vector, draws with the logits."""
    plan, prepared = prepared_plan(tiny_study(tasks=["rte"]), tmp_path)
    (job,) = _teacher_jobs(plan, plan.tasks[0], prepared["rte"].data_digest, tmp_path)
    none, some = dropout_draws(1e-9, 2), dropout_draws(0.3, 3)
    names = ("features", "layers", "parts", none, some)
    written = (teacher_folder(tmp_path, job.digest) / "teacher.json").stat().st_mtime_ns
    make_teacher(job.model_copy(update={"outputs": names}), tmp_path)
    assert (teacher_folder(tmp_path, job.digest) / "teacher.json").stat().st_mtime_ns == written
    outputs = TeacherOutputs.load(tmp_path, job.digest, names)
    logits, found = outputs.logits(outputs.ids), outputs.others
    n = len(outputs.ids)
    assert found["layers"].shape == (n, TEACHER["num_hidden_layers"], TEACHER["hidden_size"])
    np.testing.assert_allclose(found["layers"][:, -1], found["features"], atol=2e-3, rtol=2e-3)
    np.testing.assert_allclose(found[none], np.stack([logits, logits], 1), atol=1e-5)
    assert found[some].shape == (n, 3, 2)
    assert (found[some].std(1) > 0).mean() > 0.9
    assert found["parts"].shape == (n, 2, 2)
    assert np.abs(found["parts"] - logits[:, None]).max(axis=(0, 2)).min() > 1e-6
    picked = outputs.ids[[5, 2]]
    np.testing.assert_array_equal(outputs.cached("parts", picked)[np.array([1])][0], found["parts"][2])


def test_what_is_said_of_report_rows_is_added_to_a_teacher_of_an_older_cache(tmp_path: Path) -> None:
    plan, prepared = prepared_plan(tiny_study(), tmp_path)
    (job,) = _teacher_jobs(plan, plan.tasks[0], prepared["sst2"].data_digest, tmp_path)
    folder = teacher_folder(tmp_path, job.digest)
    with np.load(folder / REPORT) as arrays:
        before = dict(arrays)
    (folder / REPORT).unlink()
    (sums,) = folder.glob("checksums-*.json")
    sums.write_text(json.dumps({name: sum for name, sum in json.loads(sums.read_text()).items() if name != REPORT}))
    written = (folder / "teacher.json").stat().st_mtime_ns
    store = Store(tmp_path / "store")
    plan, prepared = prepared_plan(tiny_study(), tmp_path)
    keep_predictions(plan, prepared, tmp_path, store)
    assert (folder / "teacher.json").stat().st_mtime_ns == written
    with np.load(folder / REPORT) as arrays:
        np.testing.assert_array_equal(arrays["validation"], before["validation"])
    (name,) = store.teachers()
    assert name == teacher_name(job.digest, TeacherOutputs.load(tmp_path, job.digest).content)
    (file,) = (store.path / "teachers").iterdir()
    file.write_bytes(b"cut off")
    keep_predictions(plan, prepared, tmp_path, store)  # damaged: written anew
    assert store.teacher_table(name)["predicted"].to_pylist() == before["validation"].argmax(1).tolist()


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_a_teacher_whose_modules_share_a_tensor_is_saved_and_read_again(kind: str, tmp_path: Path) -> None:
    models = {"student": {"config": STUDENT}, "teachers": [{"config": ALL[kind], "training": {"epochs": 1}}]}
    _, prepared = prepared_plan(tiny_study(models=models), tmp_path)
    folder = teacher_folder(tmp_path, prepared["sst2"].teacher_digests["teacher"])
    logits = np.load(folder / "train_logits.npy")
    prepared_plan(tiny_study(models=models, strategies=["msd"]), tmp_path)  # wants more of the same teacher
    parts = np.load(folder / "train_parts.npy")
    assert parts.shape == (len(logits), 2, 2)
    assert np.load(folder / "train_logits.npy").tobytes() == logits.tobytes()


def test_models_are_tried_before_the_first_teacher_trains(tmp_path: Path) -> None:
    shared = {"config": {**STUDENT, "model_type": "albert", "embedding_size": 16}, "layers": [0]}  # one layer, many times
    models = {"student": shared, "teachers": [{"config": TEACHER}]}
    with pytest.raises(ModelError, match=r"the student: .*layers cannot be chosen"):
        prepared_plan(tiny_study(models=models), tmp_path)
    models = {
        "student": {"config": STUDENT},
        "teachers": [{"config": TEACHER}, {"name": "cut", **shared}],
    }
    with pytest.raises(ModelError, match=r"teacher 'cut': .*layers cannot be chosen"):
        prepared_plan(tiny_study(models=models), tmp_path)
    assert not (tmp_path / "teachers").exists()


def test_layers_that_a_look_ahead_shall_move_are_counted_before_training(tmp_path: Path) -> None:
    strategy = {"name": "rw_kd", "settings": {"look_ahead_layers": 2}}
    with pytest.raises(ModelError, match="the student: a look-ahead shall move its last 2 layers, and it has 1"):
        prepared_plan(tiny_study(strategies=[strategy]), tmp_path)


def test_eager_attention_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = {"student": {"config": {**STUDENT, "model_type": "mpnet"}}, "teachers": [{"config": TEACHER}]}
    plan = make_plan(tiny_study(models=models, tasks=["sst2", "cola"]), tmp_path)
    prepare(plan, tmp_path, Console())
    printed = "".join(capsys.readouterr())
    assert printed.count("the student: attention is eager: transformers has no SDPA for mpnet") == 1
    assert printed.count("attention is eager") == 1


def test_what_was_killed_for_memory_is_the_same_teacher_in_smaller_parts(tmp_path: Path) -> None:
    recipe = {"config": TEACHER, "dropout": 0.0, "training": {"epochs": 1, "batch_size": 6, "learning_rate": 1e-3}}
    models = {"student": {"config": STUDENT, "dropout": 0.0}, "teachers": [recipe]}
    plan, prepared = prepared_plan(tiny_study(models=models), tmp_path)
    (job,) = _teacher_jobs(plan, plan.tasks[0], prepared["sst2"].data_digest, tmp_path)
    whole = np.array(TeacherOutputs.load(tmp_path, job.digest).all_logits)
    shutil.rmtree(folder := teacher_folder(tmp_path, job.digest))
    smaller = in_smaller_parts(in_smaller_parts(job))
    assert smaller.micro_batches == 4
    assert in_smaller_parts(in_smaller_parts(smaller)).micro_batches == 6  # single rows
    assert make_teacher(smaller, tmp_path) == job.digest
    assert [epoch["micro_batches"] for epoch in json.loads((folder / "teacher.json").read_text())["epochs"]] == [4]
    np.testing.assert_allclose(TeacherOutputs.load(tmp_path, job.digest).all_logits, whole, atol=1e-4)


def test_recipe_and_rows_are_part_of_a_teachers_identity(tmp_path: Path) -> None:
    plan, prepared = prepared_plan(tiny_study(), tmp_path)
    (job,) = _teacher_jobs(plan, plan.tasks[0], prepared["sst2"].data_digest, tmp_path)
    longer = job.teacher.training.model_copy(update={"epochs": 5})
    others = [
        job.model_copy(update={"data_digest": "other"}),
        job.model_copy(update={"teacher": job.teacher.model_copy(update={"training": longer})}),
        job.model_copy(update={"teacher": job.teacher.model_copy(update={"seed": 9})}),
    ]
    assert len({job.digest, *(other.digest for other in others)}) == 4
    renamed = job.model_copy(update={"teacher": job.teacher.model_copy(update={"name": "other"})})
    assert renamed.digest == job.digest


def test_rows_that_stand_in_training_are_said_before_they_are_reported_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = pd.DataFrame({"body": [f"text {i}" for i in range(40)], "label": [i % 2 for i in range(40)]})
    rows.to_csv(tmp_path / "train.csv", index=False)
    pd.concat([rows[:7], rows[:3].assign(body="new")]).to_csv(tmp_path / "validation.csv", index=False)
    files = {"train": "train.csv", "validation": "validation.csv"}
    task = {"name": "own", "text": ["body"], "labels": ["no", "yes"], "files": files}
    plan = make_plan(tiny_study(tasks=[task]), tmp_path)
    prepare(plan, tmp_path / "cache", Console())
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")]
    assert len(said) == 1
    assert said[0].startswith("note: 7 of the 10 validation rows of own have the text of a training row")


def test_a_teacher_tells_how_far_its_training_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.001)
    monkeypatch.setattr(console_module, "PLAIN_EVERY_SECONDS", -1.0)
    teacher = {"config": TEACHER, "training": {"epochs": 3, "batch_size": 4, "learning_rate": 1e-3}}
    study = tiny_study(models={"student": {"config": STUDENT}, "teachers": [teacher]})
    store, output = Store(tmp_path / "store"), io.StringIO()
    console = Console(rich=RichConsole(file=output, width=100))
    prepare(make_plan(study, Path.cwd()), tmp_path, console, watcher=EventLog(store))
    told = [event for event in store.events() if event["kind"] == "teacher_progress"]
    assert {event["epoch"] for event in told} == {1, 2, 3}
    left = [event["seconds_left"] for event in told]
    assert left[-1] < left[0]
    assert all(0 < event["loss"] < 2 for event in told)
    assert "teacher teacher of sst2: epoch 3 of 3, loss 0." in output.getvalue()
    assert not list(tmp_path.glob(f"teachers/*/{progress.FILE}"))
