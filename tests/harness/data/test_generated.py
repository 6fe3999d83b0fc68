from __future__ import annotations

import json
from string import ascii_lowercase
from typing import Literal

import numpy as np
import pytest

from harness.data import generated
from harness.data.grammars import TALE, TOWN, Genre
from harness.data.roles import cut_roles
from harness.data.source import load_task
from harness.errors import StudyError
from harness.plan.plan import make_plan
from harness.study.data import DataSpec, GeneratedSpec
from harness.study.tasks import GLUE, TaskSpec
from tests.conftest import PROJECT
from tests.harness.tiny import tiny_study

Rules = Literal["plain", "graded"]
RULES: tuple[Rules, ...] = ("plain", "graded")


def spec(seed: int = 0, flipped: float = 0.0, rules: Rules = "plain") -> DataSpec:
    size = GeneratedSpec(train_rows=300, report_rows=50, flipped=flipped, rules=rules)
    return DataSpec(source="generated", seed=seed, generated=size)


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", GLUE)
def test_every_task_has_glues_shape_and_is_a_function_of_its_seed(name: str, rules: Rules) -> None:
    data, again, other = (load_task(GLUE[name], spec(seed, rules=rules)) for seed in (0, 0, 1))
    assert len(data.train.texts) == len(GLUE[name].text)
    assert data.train.texts == again.train.texts
    assert data.train.texts != other.train.texts
    shares = np.bincount(data.train.labels, minlength=len(GLUE[name].labels)) / 300
    assert (shares > 0.2).all()
    assert data.report["validation"].texts != data.train.take(np.arange(50)).texts
    assert ("validation_mismatched" in data.report) == (name == "mnli")


def test_rows_of_another_task_are_that_tasks_rows() -> None:
    copy = TaskSpec.model_validate({"name": "mine", "rows_of": "mnli"})
    theirs, ours = load_task(GLUE["mnli"], spec()), load_task(copy, spec())
    assert ours.train.texts == theirs.train.texts
    assert set(ours.report) == {"validation", "validation_mismatched"}
    assert (copy.labels, copy.metrics) == (GLUE["mnli"].labels, GLUE["mnli"].metrics)


@pytest.mark.parametrize("classes", [2, 6, 20])
def test_a_task_of_one_s_own_has_as_many_classes_as_it_names(classes: int) -> None:
    """Words tell the topic in part: who counts them is right more often than not, and not always."""
    task = TaskSpec(name="topics", text=["text"], labels=[f"topic{k}" for k in range(classes)])
    size = GeneratedSpec(train_rows=1000, report_rows=50)
    data = load_task(task, DataSpec(source="generated", generated=size))
    texts, labels = data.train.texts[0], data.train.labels
    shares = np.bincount(labels, minlength=classes) * classes / 1000
    assert ((shares > 0.4) & (shares < 1.7)).all()
    said = np.array([[int(word.strip(ascii_lowercase)) for word in text.split()] for text in texts])
    most = [np.bincount(words).argmax() for words in said]
    assert 0.6 < np.mean(most == labels) < 0.95
    assert data.report.keys() == {"validation"}


def test_a_task_of_one_s_own_is_planned_with_one_column_of_text() -> None:
    own = {"name": "topics", "text": ["text"], "labels": [f"topic{k}" for k in range(6)]}
    plan = make_plan(tiny_study(tasks=[own]), PROJECT)
    assert [len(task.labels) for task in plan.tasks] == [6]
    with pytest.raises(StudyError, match="has one column of text, and `text` names 2"):
        make_plan(tiny_study(tasks=[{**own, "text": ["one", "two"]}]), PROJECT)
    with pytest.raises(StudyError, match="'labels' is missing"):
        make_plan(tiny_study(tasks=[{**own, "labels": []}]), PROJECT)
    with pytest.raises(StudyError, match="is not built in, so it needs `files`"):
        make_plan(tiny_study(tasks=[own], data={"source": "directory", "path": "glue"}), PROJECT)


def test_planted_flips_are_wrong_labels_and_their_mask_is_kept() -> None:
    clean, flipped = load_task(GLUE["mnli"], spec()).train, load_task(GLUE["mnli"], spec(flipped=0.3)).train
    assert clean.flipped is None
    assert flipped.flipped is not None
    assert flipped.flipped.mean() == pytest.approx(0.3)
    assert clean.texts == flipped.texts
    np.testing.assert_array_equal(clean.labels != flipped.labels, flipped.flipped)


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", GLUE)
def test_no_text_is_both_in_training_and_in_a_report_split(name: str, rules: Rules) -> None:
    data = load_task(GLUE[name], spec(rules=rules))
    train = set(zip(*data.train.texts, strict=True))
    for rows in data.report.values():
        assert not train & set(zip(*rows.texts, strict=True))


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", GLUE)
def test_training_and_report_rows_have_the_same_share_of_each_label(name: str, rules: Rules) -> None:
    size = GeneratedSpec(train_rows=800, report_rows=800, rules=rules)
    data = load_task(GLUE[name], DataSpec(source="generated", generated=size))
    shares = [np.bincount(rows.labels) / len(rows) for rows in (data.train, *data.report.values())]
    for share in shares[1:]:
        assert np.abs(share - shares[0]).max() < 0.1  # four standard errors, and what the held-out quarter of texts differs by


@pytest.mark.parametrize("name", ["cola", "mnli"])
def test_more_rows_leave_the_first_as_they_were(name: str) -> None:
    few = load_task(GLUE[name], spec())
    more = load_task(GLUE[name], DataSpec(source="generated", generated=GeneratedSpec(train_rows=400, report_rows=90)))
    assert [column[:300] for column in more.train.texts] == list(few.train.texts)
    np.testing.assert_array_equal(more.train.labels[:300], few.train.labels)
    np.testing.assert_array_equal(more.report["validation"].labels[:50], few.report["validation"].labels)


def test_the_mismatched_split_is_of_another_genre() -> None:
    report = load_task(GLUE["mnli"], spec()).report
    words = {split: {word for text in rows.texts[0] for word in text.split()} for split, rows in report.items()}
    assert "knights" in words["validation_mismatched"] - words["validation"]
    assert "nurses" in words["validation"] - words["validation_mismatched"]


@pytest.mark.parametrize("name", GLUE)
def test_some_texts_are_open_to_doubt(name: str) -> None:
    """Texts that were drawn often get more than one label, and no task's labels are a coin's."""
    size = GeneratedSpec(train_rows=3000, report_rows=20)
    rows = load_task(GLUE[name], DataSpec(source="generated", generated=size)).train
    labels: dict[tuple[str, ...], list[int]] = {}
    for texts, label in zip(zip(*rows.texts, strict=True), rows.labels.tolist(), strict=True):
        labels.setdefault(texts, []).append(label)
    often = [np.bincount(found) for found in labels.values() if len(found) > 1]
    doubt = 1 - sum(counts.max() for counts in often) / sum(counts.sum() for counts in often)
    assert 0.005 < doubt < 0.12


@pytest.mark.parametrize("genre", [TOWN, TALE])
@pytest.mark.parametrize("name", GLUE)
def test_graded_labels_are_drawn_from_odds_that_are_neither_a_coins_nor_sure(name: str, genre: Genre) -> None:
    generator = np.random.default_rng(0)
    drawn = [generated.GRAMMARS["graded"][name](generator, genre).probabilities for _ in range(1000)]
    probabilities = np.array(drawn)
    assert probabilities.shape == (1000, len(GLUE[name].labels))
    assert (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert probabilities.mean(0).max() < 0.62
    assert 0.78 < probabilities.max(1).mean() < 0.92  # what the best of models would score
    assert ((probabilities > 0.2) & (probabilities < 0.8)).any(1).mean() > 0.15


def test_rows_of_the_published_study_are_still_what_they_were() -> None:
    manifest = json.loads((PROJECT / "results" / "planted_truth" / "manifest.json").read_text())
    data = DataSpec.model_validate(manifest["study"]["data"])
    for name, digests in manifest["digests"].items():
        assert cut_roles(load_task(GLUE[name], data), data, len(GLUE[name].labels)).digests == digests
