from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import StudyError
from harness.study.class_names import match_classes
from harness.study.tasks import GLUE, TaskSpec, compute_metrics, official_rows, resolve_task

PAIRS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40)


def test_the_seven_tasks_have_glues_metrics() -> None:
    assert {name: task.headline_metric for name, task in GLUE.items()} == {
        "cola": "matthews",
        "sst2": "accuracy",
        "mrpc": "f1",
        "qqp": "accuracy",
        "mnli": "accuracy",
        "qnli": "accuracy",
        "rte": "accuracy",
    }
    assert len(GLUE["mnli"].labels) == 3
    assert official_rows("mnli")["validation_mismatched"] == 9_832
    assert official_rows("mine") == {}


def test_an_unknown_task_is_answered_with_the_nearest() -> None:
    with pytest.raises(StudyError, match="Did you mean 'sst2'"):
        resolve_task("sst-2")
    own = TaskSpec(name="mine", text=["t"], labels=["a", "b"])
    assert resolve_task(own) is own


@given(PAIRS)
def test_binary_metrics_equal_their_definitions(pairs: list[tuple[int, int]]) -> None:
    labels, predictions = (np.array(column) for column in zip(*pairs, strict=True))
    found = compute_metrics(["accuracy", "f1", "matthews"], labels, predictions, 2)
    tp, tn = int(((labels == 1) & (predictions == 1)).sum()), int(((labels == 0) & (predictions == 0)).sum())
    fp, fn = int(((labels == 0) & (predictions == 1)).sum()), int(((labels == 1) & (predictions == 0)).sum())
    assert found["accuracy"] == pytest.approx((tp + tn) / len(labels))
    assert found["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0)
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    assert found["matthews"] == pytest.approx((tp * tn - fp * fn) / product**0.5 if product else 0.0)


def test_f1_of_three_classes_is_the_macro_average() -> None:
    labels, predictions = np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2])
    assert compute_metrics(["f1"], labels, predictions, 3)["f1"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)


CLASSES = ["entailment", "not_entailment", "Un known-3"]
spelling = st.sampled_from(["upper", "lower", "title"])


@given(
    order=st.permutations(range(3)), how=st.lists(spelling, min_size=3, max_size=3), gap=st.sampled_from(["", " ", "-", "_"])
)
def test_order_case_and_gaps_do_not_matter(order: list[int], how: list[str], gap: str) -> None:
    others = [getattr(CLASSES[k], how[k])().replace("_", gap).replace(" ", gap) for k in order]
    found = match_classes(CLASSES, others)
    assert [order[k] for k in found] == [0, 1, 2]


def test_names_that_gaps_alone_tell_apart_are_taken_literally() -> None:
    assert match_classes(["-1", "1"], ["1", "-1"]) == [1, 0]
    with pytest.raises(ValueError, match="named twice"):
        match_classes(["-1", "1"], ["1", " 1"])


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (["negative", "positiv"], r"'positiv' is none of the task's classes. Did you mean 'positive'\?"),
        (["negative"], "'positive' is missing"),
        (["negative", "positive", "neutral"], "'neutral' is none of"),
        (["negative", "positive", "Positive"], "named twice"),
        (["LABEL_0", "LABEL_1"], "'LABEL_0' is none of the task's classes.*found: LABEL_0, LABEL_1"),
        ([], "'negative' is missing"),
    ],
)
def test_what_does_not_match_is_said(others: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        match_classes(["negative", "positive"], others)
