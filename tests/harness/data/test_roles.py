from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data.roles import cut_roles, load_report_rows, load_teacher_rows, load_training_rows, rows_digest, save_roles
from harness.data.rows import FitAndMetaRows, Rows, TaskData, TrainingRows, join_rows
from harness.data.source import load_task
from harness.errors import DataError
from harness.study.data import DataSpec
from harness.study.tasks import resolve_task


def rows(labels: list[int] | np.ndarray) -> Rows:
    count = len(labels)
    return Rows(np.arange(count), ([f"text {i}" for i in range(count)],), np.asarray(labels))


def data(count: int = 400, classes: int = 3, seed: int = 0) -> TaskData:
    generator = np.random.default_rng(seed)
    labels = generator.choice(classes, count, p=np.array([0.6, 0.3, 0.1])[:classes] / sum([0.6, 0.3, 0.1][:classes]))
    return TaskData(rows(labels), {"validation": rows(labels[:50])}, "made for a test")


@given(st.integers(0, 100), st.floats(0.05, 0.4), st.floats(0.05, 0.4))
def test_roles_part_the_training_rows_in_the_labels_proportions(seed: int, select: float, meta: float) -> None:
    source = data()
    roles = cut_roles(source, DataSpec(seed=seed, select_fraction=select, meta_fraction=meta), 3)
    parts = (roles.training.fit, roles.training.meta, roles.training.select)
    assert sorted(np.concatenate([part.ids for part in parts])) == list(range(400))
    for part in parts:
        expected = np.bincount(source.train.labels, minlength=3) / 400 * len(part)
        assert np.abs(np.bincount(part.labels, minlength=3) - expected).max() <= 2


def test_the_order_of_the_source_does_not_matter() -> None:
    source = data()
    order = np.random.default_rng(1).permutation(400)
    mixed = TaskData(source.train.take(order), source.report, source.origin)
    for spec in (DataSpec(), DataSpec(train_rows=150, report_rows=20, label_noise=0.2)):
        assert cut_roles(source, spec, 3).digest == cut_roles(mixed, spec, 3).digest


def test_caps_keep_proportions_and_are_seeded() -> None:
    capped = cut_roles(data(), DataSpec(train_rows=100, report_rows=10), 3)
    training = capped.training
    assert len(training.fit) + len(training.meta) + len(training.select) == 100
    assert len(capped.report["validation"]) == 10
    assert capped.digest == cut_roles(data(), DataSpec(train_rows=100, report_rows=10), 3).digest
    assert capped.digest != cut_roles(data(), DataSpec(train_rows=100, report_rows=10, seed=1), 3).digest


@given(st.floats(0.01, 0.9), st.integers(2, 3))
def test_noise_flips_fit_labels_alone_and_keeps_the_mask(noise: float, classes: int) -> None:
    clean = cut_roles(data(classes=classes), DataSpec(), classes).training
    noisy = cut_roles(data(classes=classes), DataSpec(label_noise=noise), classes).training
    assert noisy.fit.flipped is not None
    np.testing.assert_array_equal(clean.fit.labels != noisy.fit.labels, noisy.fit.flipped)
    assert noisy.fit.flipped.sum() == round(len(clean.fit) * noise)
    np.testing.assert_array_equal(clean.meta.labels, noisy.meta.labels)
    joined = join_rows(FitAndMetaRows, noisy.fit, noisy.meta)
    assert joined.flipped is not None
    assert joined.flipped.sum() == noisy.fit.flipped.sum()


@given(st.integers(0, 100), st.integers(1, 400))
def test_teachers_rows_are_fit_and_what_the_cap_leaves_out(seed: int, wanted: int) -> None:
    plain = DataSpec(train_rows=150, seed=seed)
    alone, taught = (cut_roles(data(), spec, 3) for spec in (plain, plain.model_copy(update={"teacher_rows": wanted})))
    assert alone.teacher is None
    assert taught.teacher is not None
    assert {**alone.digests, "teacher": rows_digest(taught.teacher)} == taught.digests  # students train on what they did
    own = set(taught.teacher.ids) - set(taught.training.fit.ids)
    assert len(own) == min(wanted, 250)
    assert len(taught.teacher) == len(taught.training.fit) + len(own)
    assert not own & {*taught.training.meta.ids, *taught.training.select.ids}


def test_noise_reaches_the_teachers_rows_and_is_the_same_for_student_and_teacher() -> None:
    spec = DataSpec(train_rows=200, teacher_rows=100, label_noise=0.3)
    noisy = cut_roles(data(), spec, 3)
    assert noisy.teacher is not None
    clean = data().train.labels
    np.testing.assert_array_equal(noisy.teacher.flipped, noisy.teacher.labels != clean[noisy.teacher.ids])
    assert noisy.teacher.flipped is not None
    assert noisy.teacher.flipped.sum() == round(0.3 * len(noisy.training.fit)) + 30
    np.testing.assert_array_equal(noisy.teacher.labels[: len(noisy.training.fit)], noisy.training.fit.labels)


def test_no_rows_left_for_teachers_are_said() -> None:
    with pytest.raises(DataError, match=r"teacher_rows is 10, but data\.train_rows leaves out none of the 400"):
        cut_roles(data(), DataSpec(teacher_rows=10), 3)


@given(st.integers(0, 100), st.integers(10, 150))
def test_rows_reported_from_train_have_no_other_role_and_leave_the_others_as_they_are(seed: int, wanted: int) -> None:
    plain = DataSpec(train_rows=150, teacher_rows=100, label_noise=0.2, seed=seed)
    without, reported = (cut_roles(data(), spec, 3) for spec in (plain, plain.model_copy(update={"report_from_train": wanted})))
    surplus = reported.report["train_surplus"]
    assert reported.digests == {**without.digests, "train_surplus": rows_digest(surplus)}
    assert len(surplus) == wanted
    assert not set(surplus.ids) & {i for rows in reported.for_training.values() for i in rows.ids}
    np.testing.assert_array_equal(surplus.labels, data().train.labels[surplus.ids])


def test_too_few_rows_to_report_on_are_said() -> None:
    with pytest.raises(DataError, match=r"report_from_train is 10, but students and teachers leave 0 of the 400"):
        cut_roles(data(), DataSpec(report_from_train=10), 3)


def test_rows_whose_label_is_wrong_on_purpose_are_not_reported_on() -> None:
    spec = DataSpec(source="generated", train_rows=100, report_from_train=40, generated={"train_rows": 300, "flipped": 0.3})
    rows = load_task(resolve_task("sst2"), spec, Path())
    roles = cut_roles(rows, spec, 2)
    assert rows.train.flipped is not None
    assert not set(roles.report["train_surplus"].ids) & set(rows.train.ids[rows.train.flipped])


def test_saved_roles_come_back_whole(tmp_path: Path) -> None:
    roles = cut_roles(data(), DataSpec(label_noise=0.1, train_rows=200, teacher_rows=50), 3)
    save_roles(roles, tmp_path)
    save_roles(roles, tmp_path)
    training = load_training_rows(tmp_path, roles.digest)
    report = load_report_rows(tmp_path, roles.digest)
    teacher = load_teacher_rows(tmp_path, roles.digest)
    parts = {"fit": training.fit, "meta": training.meta, "select": training.select, "teacher": teacher, **report}
    assert {name: rows_digest(part) for name, part in parts.items()} == roles.digests


def test_without_rows_of_their_own_teachers_train_on_fit(tmp_path: Path) -> None:
    roles = cut_roles(data(), DataSpec(), 3)
    save_roles(roles, tmp_path)
    assert rows_digest(load_teacher_rows(tmp_path, roles.digest)) == roles.digests["fit"]


def test_what_training_is_given_holds_no_report_rows() -> None:
    assert set(TrainingRows.__dataclass_fields__) == {"fit", "meta", "select"}


def test_too_few_rows_for_a_role_are_said() -> None:
    with pytest.raises(DataError, match="leave none for the role 'meta'"):
        cut_roles(TaskData(rows([0, 1] * 4), {"validation": rows([0])}, "eight rows"), DataSpec(meta_fraction=0.01), 2)
