"""A field that came later is part of keys and digests only where it is used."""

from __future__ import annotations

from typing import Any

from harness.study.schema import Study
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
