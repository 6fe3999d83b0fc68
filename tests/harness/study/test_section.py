"""A field that came later is part of keys and digests only where it is used."""

from __future__ import annotations

from typing import Any

import pytest

from harness.digest import digest
from harness.study.data import DataSpec
from harness.study.schema import ModelSpec, Study, TeacherSpec
from harness.study.section import Section
from tests.harness.tiny import tiny_study


class First(Section):
    first_fields = frozenset({"a"})
    a: int = 1
    later: list[int] = []


class Holder(Section):
    one: First = First()
    several: tuple[First, ...] = ()
    plain: dict[str, Any] = {}


def test_a_later_field_counts_where_it_is_not_at_its_default() -> None:
    assert First().identity() == {"a": 1}
    assert First(a=2, later=[3]).identity() == {"a": 2, "later": [3]}
    held = Holder(one=First(a=5), several=(First(), First(later=[1])), plain={"later": []})
    assert held.identity() == {"one": {"a": 5}, "several": [{"a": 1}, {"a": 1, "later": [1]}], "plain": {"later": []}}


def test_a_section_without_a_list_of_first_fields_is_its_dump() -> None:
    study: Study = tiny_study()
    assert study.search.identity() == study.search.model_dump(mode="json")


@pytest.mark.parametrize("kind", [ModelSpec, TeacherSpec])
def test_later_fields_at_their_default_are_no_part_of_the_identity(kind):
    plain = kind(model="org/name", layers=[0, 2])
    assert set(plain.identity()) == kind.first_fields
    assert kind.model_validate(plain.identity()) == plain
    assert "pooling" not in plain.identity()


@pytest.mark.parametrize("kind", [ModelSpec, TeacherSpec])
def test_another_value_is_part_of_it_and_changes_the_digest(kind):
    plain, mean = kind(model="org/name"), kind(model="org/name", pooling="mean")
    assert mean.identity() == {**plain.identity(), "pooling": "mean"}
    assert digest(mean.identity()) != digest(plain.identity())


def test_where_rows_of_the_hub_come_from_is_no_part_of_what_was_trained_before():
    assert set(DataSpec().identity()) == DataSpec.first_fields
