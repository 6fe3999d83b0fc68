"""A study whose strategies do not fit its teachers is refused before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import StudyError
from harness.models.build import build_model
from harness.plan.plan import Plan, make_plan
from harness.study.schema import ModelSpec
from harness.teachers.prepare import prepare
from harness.watching.console import Console
from tests.harness.tiny import STUDENT, TEACHER, tiny_study

BY_TEACHERS = {"name": "rl_kd", "settings": {"representation": "teachers"}}


def planned(entry: Any, second: dict[str, Any], **changes: Any) -> Plan:
    models = {"student": {"config": STUDENT}, "teachers": [{"name": "small", "config": TEACHER}, {"name": "other", **second}]}
    return make_plan(tiny_study(strategies=[entry], models=models, **changes), Path.cwd())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"smal": 1.0, "other": 1.0}, r"'smal', which is no teacher.*Did you mean 'small'\?.*each of small, other"),
        ({"small": 1.0}, "each of small, other"),
        ({"small": -1.0, "other": 2.0}, "not negative"),
        ({"small": 0.0, "other": 0.0}, "not 0 for all"),
    ],
)
def test_given_teacher_weights_that_do_not_fit(given: dict[str, float], said: str) -> None:
    with pytest.raises(StudyError, match=f"'weighted_ensemble': .*{said}") as raised:
        planned({"name": "weighted_ensemble", "settings": {"teacher_weights": given}}, {"config": TEACHER})
    assert raised.value.where == ("strategies", 0, "settings")


def test_given_teacher_weights_are_those_of_the_strategys_own_teachers() -> None:
    entry = {"name": "weighted_ensemble", "teachers": ["other"], "settings": {"teacher_weights": {"other": 1.0}}}
    assert planned(entry, {"config": TEACHER}).cells
    entry["teachers"] = ["small", "other"]
    with pytest.raises(StudyError, match="small, other"):
        planned(entry, {"config": TEACHER})


@pytest.mark.parametrize(
    "entry",
    [
        BY_TEACHERS,
        {**BY_TEACHERS, "name": "shuffled(rl_kd)"},
        {"name": "rl_kd", "search": {"representation": {"type": "choice", "values": ["student", "teachers"]}}},
    ],
)
def test_vectors_of_several_sizes_in_the_study(entry: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match=r"rl_kd.*vectors of one size.*small: 32, other: 48.*representation: student"):
        planned(entry, {"config": {**TEACHER, "hidden_size": 48}})
    assert planned(entry, {"config": {**TEACHER, "num_hidden_layers": 3}}).cells
    assert planned({**entry, "teachers": ["other"]}, {"config": {**TEACHER, "hidden_size": 48}}).cells


@pytest.mark.parametrize("origin", ["files", "default"])
def test_vectors_of_several_sizes_that_only_the_model_tells(origin: str, tmp_path: Path) -> None:
    """The size stands in the model's own configuration, or is the architecture's default: no teacher is trained in vain."""
    config = {**TEACHER, "hidden_size": 48}
    if origin == "files":
        folder = tmp_path / "model"
        build_model(ModelSpec(config=config), 2, 0, 2000).save_pretrained(folder)
        second: dict[str, Any] = {"model": str(folder), "tokenizer": "words"}
    else:
        second = {"config": {name: value for name, value in config.items() if name != "hidden_size"}}
    plan = planned(BY_TEACHERS, second)
    trained: list[Any] = []

    def nothing(function: Any, items: Any) -> Any:
        trained.extend(items)
        return iter(())

    with pytest.raises(StudyError, match=rf"small: 32, other: {48 if origin == 'files' else 768}"):
        prepare(plan, tmp_path / "cache", Console(quiet=True), nothing)
    assert not trained
    prepare(planned({"name": "rl_kd"}, second), tmp_path / "cache", Console(quiet=True), nothing)
    assert len(trained) == 2
