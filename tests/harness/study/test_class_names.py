from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.study.class_names import match_classes

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
