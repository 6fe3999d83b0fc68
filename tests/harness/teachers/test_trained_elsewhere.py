"""A teacher of the harness, given back as somebody else's, teaches the same."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.data.source import load_task
from harness.data.teacher_outputs import TeacherOutputs
from harness.plan.plan import Plan, make_plan
from harness.plan.prepared import PreparedTask
from harness.study.schema import Study
from harness.teachers.prepare import _teacher_jobs, prepare
from harness.teachers.stored_outputs import in_order
from harness.watching.console import Console
from tests.harness.teachers.elsewhere import (
    STRATEGIES,
    TASK,
    easy_task,
    largest_difference,
    save_checkpoint,
    save_outputs,
    students,
    with_teachers,
)
from tests.harness.tiny import TEACHER, prepared_plan, tiny_study

ORDER = (2, 0, 1)
NAMES = ("CONTRADICTION", "Entail-ment", "neu tral")


@dataclass(frozen=True)
class Home:
    """A study whose teacher was fine-tuned here."""

    study: Study
    plan: Plan
    prepared: dict[str, PreparedTask]
    cache: Path
    students: list[Any]

    @property
    def outputs(self) -> TeacherOutputs:
        return TeacherOutputs.load(self.cache, self.prepared[TASK].teacher_digests["teacher"])

    def checkpoint(self, folder: Path, names: tuple[str, ...] = NAMES) -> str:
        return str(save_checkpoint(self.plan, self.prepared, self.cache, folder, ORDER, names))

    def foreign(self, *teachers: dict[str, Any], **changes: Any) -> tuple[Plan, dict[str, PreparedTask], list[str]]:
        """Prepared with these teachers, and what the terminal said."""
        said: list[str] = []
        console = Console(quiet=True)
        console.note = said.append  # type: ignore[method-assign]
        plan = make_plan(with_teachers(self.study, *teachers, **changes), Path.cwd())
        return plan, prepare(plan, self.cache, console), said


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    cache = tmp_path_factory.mktemp("cache")
    teacher = {"config": TEACHER, "training": {"epochs": 12, "learning_rate": 3e-3, "batch_size": 16}}
    study = with_teachers(tiny_study(tasks=[easy_task(cache)], strategies=STRATEGIES), teacher)
    plan, prepared = prepared_plan(study, cache)
    return Home(study, plan, prepared, cache, students(study, cache))


def test_as_a_checkpoint_with_its_classes_in_another_order_it_gives_the_same_students(home: Home, tmp_path: Path) -> None:
    teacher = {"name": "theirs", "fine_tuned": {TASK: home.checkpoint(tmp_path / "theirs")}}
    _, prepared, _ = home.foreign(teacher)
    theirs = TeacherOutputs.load(home.cache, prepared[TASK].teacher_digests["theirs"])
    np.testing.assert_array_equal(theirs.all_logits, home.outputs.all_logits)
    assert theirs.report == home.outputs.report
    assert {"fit", "select", "validation"} <= set(theirs.report)
    given = students(with_teachers(home.study, teacher), home.cache)
    assert [one[:2] for one in given] == [one[:2] for one in home.students]
    assert largest_difference(given, home.students) == 0.0
    assert home.outputs.report["validation"].metrics["accuracy"] > 0.9  # so the order of classes matters


def test_labels_name_what_a_checkpoint_does_not(home: Home, tmp_path: Path) -> None:
    folder = home.checkpoint(tmp_path / "nameless", ("LABEL_0", "LABEL_1", "LABEL_2"))
    teacher = {"name": "theirs", "fine_tuned": {TASK: folder}, "labels": {TASK: ["contradiction", "entailment", "neutral"]}}
    _, prepared, said = home.foreign(teacher)
    theirs = TeacherOutputs.load(home.cache, prepared[TASK].teacher_digests["theirs"])
    np.testing.assert_array_equal(theirs.all_logits, home.outputs.all_logits)
    assert not [line for line in said if "mixed up" in line]
    wrong = {**teacher, "labels": {TASK: ["neutral", "contradiction", "entailment"]}}
    _, prepared, said = home.foreign(wrong)
    mixed = TeacherOutputs.load(home.cache, prepared[TASK].teacher_digests["theirs"])
    assert mixed.report["fit"].metrics["accuracy"] < 0.1
    assert [line for line in said if "mixed up" in line]


def test_a_checkpoint_s_features_are_made_from_it(home: Home, tmp_path: Path) -> None:
    teacher = {"name": "theirs", "fine_tuned": {TASK: home.checkpoint(tmp_path / "theirs")}}
    plan, prepared, _ = home.foreign(teacher, strategies=["universal_kd"])
    wanted = plan.teacher_outputs["theirs"]
    assert wanted
    theirs = TeacherOutputs.load(home.cache, prepared[TASK].teacher_digests["theirs"], wanted)
    assert all(len(theirs.cached(name, theirs.ids)[np.arange(len(theirs.ids))]) == len(theirs.ids) for name in wanted)


@pytest.mark.parametrize("how", ["parquet", "npy"])
def test_as_stored_logits_it_gives_the_same_students(home: Home, tmp_path: Path, how: str) -> None:
    teacher: dict[str, Any] = {"name": "theirs"}
    if how == "parquet":
        file = save_outputs(home.plan, home.prepared, home.cache, tmp_path / "train.parquet")
    else:
        task = home.plan.tasks[0]
        rows = load_task(task, home.study.data_for(TASK)).train
        file = tmp_path / "train.npy"
        np.save(file, home.outputs.logits(rows.ids)[:, list(ORDER)])
        teacher["labels"] = {TASK: [task.labels[k] for k in ORDER]}
    given = students(with_teachers(home.study, {**teacher, "outputs": {TASK: {"train": str(file)}}}), home.cache)
    assert [one[:2] for one in given] == [one[:2] for one in home.students]
    assert largest_difference(given, home.students) == 0.0


def test_rows_in_another_order_are_not_those_that_were_cached(home: Home, tmp_path: Path) -> None:
    """An array has no ids: with `idx` in the file, the data are the same, and what a line of the array is of is not."""
    task = home.plan.tasks[0]
    data = load_task(task, home.study.data_for(TASK))
    file = tmp_path / "train.npy"
    np.save(file, np.zeros((len(data.train), 3), np.float32))
    outputs = {"name": "theirs", "outputs": {TASK: {"train": str(file)}}, "labels": {TASK: list(task.labels)}}
    plan = make_plan(with_teachers(home.study, outputs), Path.cwd())
    (job,) = _teacher_jobs(plan, plan.tasks[0], "data", home.cache)
    turned = replace(data, train=data.train.take(np.arange(len(data.train))[::-1]))
    assert in_order(job, data) == job  # sorted by id, as nearly all are
    assert in_order(job, turned).digest != job.digest


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_mpnet_base_in_each_form_gives_the_same_students(real_glue: Path, tmp_path: Path) -> None:
    """Fine-tuned here, then as a checkpoint with its classes in another order, then as stored outputs."""
    weights = os.environ.get("MPNET")
    if weights is None:
        pytest.skip("needs the weights of all-mpnet-base-v2: a folder named by $MPNET")
    teacher = {"model": weights, "training": {"epochs": 1, "learning_rate": 1e-4, "batch_size": 8}}
    data = {"source": "directory", "path": str(real_glue), "train_rows": 120, "report_rows": 40, "max_length": 32}
    study = with_teachers(tiny_study(tasks=["cola"], strategies=STRATEGIES, data=data), teacher)
    plan, prepared = prepared_plan(study, tmp_path)
    trained = students(study, tmp_path)
    names = ("acceptable", "unacceptable")
    checkpoint = str(save_checkpoint(plan, prepared, tmp_path, tmp_path / "checkpoint", (1, 0), names))
    stored = str(save_outputs(plan, prepared, tmp_path, tmp_path / "train.parquet"))
    for origin in ({"fine_tuned": {"cola": checkpoint}}, {"outputs": {"cola": {"train": stored}}}):
        given = students(with_teachers(study, {"name": "theirs", **origin}), tmp_path)
        assert [one[:2] for one in given] == [one[:2] for one in trained]
        assert largest_difference(given, trained) == 0.0


def test_probabilities_give_the_same_student_up_to_rounding(home: Home, tmp_path: Path) -> None:
    file = save_outputs(home.plan, home.prepared, home.cache, tmp_path / "p.parquet", probabilities=True)
    teacher = {"name": "theirs", "outputs": {TASK: {"train": str(file)}}, "output_kind": "probabilities"}
    given = students(with_teachers(home.study, teacher, strategies=["fixed_alpha"]), home.cache)
    assert 0 <= largest_difference(given, home.students[:1]) < 1e-5


def test_the_scores_of_stored_outputs_are_those_of_the_teacher(home: Home, tmp_path: Path) -> None:
    file = save_outputs(home.plan, home.prepared, home.cache, tmp_path / "train.parquet")
    _, prepared, _ = home.foreign({"name": "theirs", "outputs": {TASK: {"train": str(file)}}})
    theirs = TeacherOutputs.load(home.cache, prepared[TASK].teacher_digests["theirs"])
    assert theirs.report == {part: home.outputs.report[part] for part in ("fit", "meta", "select")}


def test_they_mix_with_teachers_that_are_trained_here(home: Home, tmp_path: Path) -> None:
    file = save_outputs(home.plan, home.prepared, home.cache, tmp_path / "train.parquet")
    own = home.study.models.teachers[0].model_dump(exclude_unset=True)
    stored = {"name": "stored", "outputs": {TASK: {"train": str(file)}}}
    checkpoint = {"name": "checkpoint", "fine_tuned": {TASK: home.checkpoint(tmp_path / "theirs")}}
    mixed = with_teachers(home.study, own, stored, checkpoint, strategies=["fixed_alpha"])
    # kd is the mean over teachers: of three times the same one, up to rounding the same student
    assert largest_difference(students(mixed, home.cache), home.students[:1]) < 1e-5


def test_a_teacher_that_no_strategy_uses_is_not_made(home: Home, tmp_path: Path) -> None:
    own = home.study.models.teachers[0].model_dump(exclude_unset=True)
    idle = {**own, "name": "idle", "seed": 77}
    entry = {"name": "fixed_alpha", "teachers": ["teacher"]}
    before = {folder.name for folder in (home.cache / "teachers").iterdir()}
    plan, prepared, _ = home.foreign(own, idle, strategies=[entry])
    assert set(prepared[TASK].teacher_digests) == {"teacher"}
    assert [teacher.name for teacher in plan.used_teachers] == ["teacher"]
    assert {folder.name for folder in (home.cache / "teachers").iterdir()} == before


def test_where_a_checkpoint_lies_and_what_its_scores_are_for_is_not_what_it_is(home: Home, tmp_path: Path) -> None:
    def digest(**teacher: Any) -> str:
        return home.foreign({"name": "theirs", **teacher})[1][TASK].teacher_digests["theirs"]

    here, there = home.checkpoint(tmp_path / "here"), home.checkpoint(tmp_path / "there")
    first = digest(fine_tuned={TASK: here})
    assert digest(fine_tuned={TASK: there}, reference=False) == first
    file = save_outputs(home.plan, home.prepared, home.cache, tmp_path / "a.parquet")
    stored = digest(outputs={TASK: {"train": str(file)}})
    assert stored not in (first, home.prepared[TASK].teacher_digests["teacher"])
    assert digest(outputs={TASK: {"train": str(file.rename(tmp_path / "b.parquet"))}}) == stored
