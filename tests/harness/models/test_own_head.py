"""A checkpoint's own head is put into the task's order by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import ModelError
from harness.models.build import build_model, run_model
from harness.models.own_head import build_classifier, classifier_digest, fine_tuned_labels, has_head, head_note
from harness.models.sources import model_digest
from harness.study.schema import ModelSpec
from tests.harness.small_models import CONFIGS, MINILM, VOCABULARY, inputs, same, small
from tests.harness.tiny import TEACHER

CLASSES = ["entailment", "neutral", "contradiction"]
ORDER = [2, 0, 1]
"""Output k of the checkpoint is the class ORDER[k]."""


def save(folder: Path, names: Sequence[str], kind: str = "bert") -> ModelSpec:
    model = small(kind, classes=len(names))
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: k for k, name in enumerate(names)}
    model.save_pretrained(folder)
    return ModelSpec(model=str(folder))


def named(order: Sequence[int] = ORDER) -> list[str]:
    return [CLASSES[k].upper() for k in order]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return run_model(model.eval(), inputs()).logits


@pytest.mark.parametrize("kind", CONFIGS)
def test_outputs_come_in_the_order_of_the_task_s_classes(kind: str, tmp_path: Path) -> None:
    spec = save(tmp_path, named(), kind)
    theirs = logits(build_model(spec, 3, 0, VOCABULARY))
    ours = build_classifier(spec, CLASSES, 0, VOCABULARY)
    assert torch.equal(logits(ours)[:, ORDER], theirs)
    ours.save_pretrained(tmp_path / "again")  # says itself what its outputs are
    again = ModelSpec(model=str(tmp_path / "again"))
    assert fine_tuned_labels(again, CLASSES, None) == CLASSES
    assert torch.equal(logits(build_classifier(again, CLASSES, 0, VOCABULARY)), logits(ours))


def test_given_labels_decide_where_the_checkpoint_has_no_names(tmp_path: Path) -> None:
    spec = save(tmp_path, ["LABEL_0", "LABEL_1", "LABEL_2"])
    labels = fine_tuned_labels(spec, CLASSES, named())
    ours = build_classifier(spec, CLASSES, 0, VOCABULARY, labels)
    assert torch.equal(logits(ours)[:, ORDER], logits(build_model(spec, 3, 0, VOCABULARY)))
    with pytest.raises(ModelError, match="calls its outputs LABEL_0"):
        fine_tuned_labels(spec, CLASSES, None)


@pytest.mark.parametrize("names", [["LABEL_0", "LABEL_1", "LABEL_2"], ["a", "b", "c"], ["yes", "no"]])
def test_a_head_for_something_else_stays_as_it_is(names: list[str], tmp_path: Path) -> None:
    spec = save(tmp_path, names)
    assert same(build_classifier(spec, CLASSES, 7, VOCABULARY), build_model(spec, 3, 7, VOCABULARY))
    assert classifier_digest(spec, CLASSES) == model_digest(spec)
    note = head_note(spec, CLASSES, "the student")
    assert (note is not None) == (names == ["a", "b", "c"])


def test_the_order_is_part_of_what_a_model_is_only_where_it_changes(tmp_path: Path) -> None:
    other, own = save(tmp_path / "other", named()), save(tmp_path / "own", named(range(3)))
    assert classifier_digest(own, CLASSES) == model_digest(own)
    assert classifier_digest(other, CLASSES) != model_digest(other)
    assert classifier_digest(other, named()) == model_digest(other)
    config = ModelSpec(config=CONFIGS["bert"])
    assert classifier_digest(config, CLASSES) == model_digest(config)


def test_a_checkpoint_without_a_head_has_none(tmp_path: Path) -> None:
    assert not has_head(ModelSpec(model=MINILM))
    assert has_head(save(tmp_path, named()))
    with pytest.raises(ModelError, match="no classification head in its weights"):
        fine_tuned_labels(ModelSpec(model=MINILM), ["LABEL_0", "LABEL_1"], None)


def test_weights_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    spec = save(tmp_path, named())
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="cannot be read as a sequence classifier"):
        fine_tuned_labels(spec, CLASSES, None)


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_a_teacher_of_another_kind_of_task_is_refused(tmp_path: Path, problem: str) -> None:
    model = build_classifier(ModelSpec(config=TEACHER), ["no", "yes"], 0, 40)
    model.config.problem_type = problem
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"is fine-tuned for {problem}"):
        fine_tuned_labels(ModelSpec(model=str(tmp_path)), ["no", "yes"], None)
