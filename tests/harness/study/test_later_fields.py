"""What was trained before a field of models existed keeps its keys."""

import pytest

from harness.digest import digest
from harness.study.schema import LATER_FIELDS, ModelSpec, TeacherSpec


@pytest.mark.parametrize("kind", [ModelSpec, TeacherSpec])
def test_later_fields_at_their_default_are_not_written(kind):
    plain = kind(model="org/name", layers=[0, 2])
    written = plain.model_dump(mode="json")
    assert set(written) == set(kind.model_fields) - LATER_FIELDS
    assert kind.model_validate(written) == plain
    assert kind.model_validate_json(plain.model_dump_json()) == plain
    assert plain.pooling == "own"


@pytest.mark.parametrize("kind", [ModelSpec, TeacherSpec])
def test_another_value_is_written_and_changes_the_digest(kind):
    plain, mean = kind(model="org/name"), kind(model="org/name", pooling="mean")
    assert mean.model_dump(mode="json") == {**plain.model_dump(mode="json"), "pooling": "mean"}
    assert kind.model_validate(mean.model_dump(mode="json")) == mean
    assert digest(mean.model_dump(mode="json")) != digest(plain.model_dump(mode="json"))
