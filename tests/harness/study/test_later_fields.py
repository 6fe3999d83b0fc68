"""What was trained before a field of models existed keeps its keys."""

import pytest

from harness.digest import digest
from harness.study.schema import DataSpec, ModelSpec, TeacherSpec


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
