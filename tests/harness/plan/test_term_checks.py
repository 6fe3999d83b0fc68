"""Studies whose loss terms cannot be provided for are refused, and say which strategy and term."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data.batches import LengthBucketedBatches
from harness.errors import StudyError
from harness.plan.batch_checks import check_smallest_batch
from harness.plan.plan import Plan, make_plan
from harness.ranks import shard
from harness.study.schema import Study, TrainingSpec
from strategies import registry
from strategies.space import Choice, IntRange
from tests.harness.tiny import STUDENT, TEACHER, tiny_study


def planned(*strategies: Any, **changes: Any) -> Plan:
    return make_plan(tiny_study(strategies=list(strategies), **changes), Path.cwd())


def with_self(**own: Any) -> dict[str, Any]:
    teachers = [{"name": "large", "config": TEACHER}, {"name": "self", "architecture": "student", **own}]
    return {"student": {"config": STUDENT, "dropout": 0.0}, "teachers": teachers}


def test_a_teacher_of_another_architecture_is_no_self() -> None:
    with pytest.raises(StudyError, match=r"'self_kd' \(loss terms .*noisy_kd\).*'teacher' differs.*architecture: student"):
        planned("self_kd")
    planned({"name": "self_kd", "settings": {"teacher": "any"}})


def test_a_teacher_like_the_student_is_written_out() -> None:
    plan = planned({"name": "self_kd", "teachers": ["self"]}, models=with_self(dropout=0.2))
    teacher = plan.study.models.teachers[1]
    assert (teacher.config, teacher.dropout) == (STUDENT, 0.2)
    assert Study.model_validate(plan.study.model_dump(mode="json")) == plan.study
    assert plan.teacher_outputs == {"large": (), "self": ("dropout_0.15_4",)}


def test_a_teacher_cannot_be_like_the_student_and_something_else() -> None:
    with pytest.raises(ValueError, match="can only be `student`"):
        tiny_study(models=with_self(config=TEACHER))


def test_unknown_extra_terms_are_refused() -> None:
    with pytest.raises(StudyError, match=r"'dwa': there is no loss term 'layerkd'. Did you mean 'layer_kd'"):
        planned({"name": "dwa", "settings": {"extra_terms": ["layerkd"]}})
    with pytest.raises(StudyError, match="part_kd_each has a row for each"):
        planned({"name": "gradnorm", "settings": {"extra_terms": ["part_kd_each"]}})
    with pytest.raises(StudyError, match="'kd' is named twice"):
        planned({"name": "equal_sum", "settings": {"extra_terms": ["kd"]}})


def test_a_range_over_what_is_cached_before_training_is_refused() -> None:
    searched = {"trials": 3, "repeats": 1}
    entry = {"name": "self_kd", "teachers": ["self"]}
    with pytest.raises(StudyError, match="draws of 'self_kd' decides which teacher outputs"):
        planned({**entry, "search": {"draws": {"type": "int", "low": 2, "high": 4}}}, models=with_self(), search=searched)
    choice = {"type": "choice", "values": [2, 4]}
    plan = planned({**entry, "search": {"draws": choice}}, models=with_self(), search=searched)
    assert plan.teacher_outputs["self"] == ("dropout_0.15_2", "dropout_0.15_4")


def test_the_look_ahead_refuses_relations_over_several_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_strategies", dict(registry._strategies))  # gone again after this test
    (tmp_path / "plugin.py").write_text(
        "from strategies import *\n"
        "@register\n"
        "class Both(Strategy[Settings]):\n"
        "    name, family, summary, paper = 'relations_ahead', 'test', 'test', 'none'\n"
        "    sample_wise, normalisation, cost = False, Normalisation.FREE, Cost.LOOK_AHEAD\n"
        "    @classmethod\n"
        "    def needs(cls, settings): return Needs(terms=('ce', 'relational_kd'), look_ahead='jvp')\n"
        "    def weights(self, context): return {'ce': 1.0, 'relational_kd': 1.0}\n"
    )
    study = tiny_study(strategies=["relations_ahead"], plugins=["plugin.py"], resources={"workers": 2})
    with pytest.raises(StudyError, match=r"'relations_ahead' with the loss terms ce, relational_kd.*'jvp'.*engine 'fd'"):
        make_plan(study, tmp_path)
    make_plan(study.model_copy(update={"resources": tiny_study().resources}), tmp_path)


TWO = {"engine": "inline", "workers": 2}


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"training": {"batch_size": 1}}, ("training", "batch_size")),
        ({"training": {"meta_batch_size": 1}}, ("training", "meta_batch_size")),
        ({"training_per_task": {"sst2": {"batch_size": 1}}}, ("training_per_task", "sst2", "batch_size")),
        ({"search": {"space": {"batch_size": IntRange(low=1, high=8)}}}, ("search", "space", "batch_size")),
        ({"search": {"space": {"batch_size": Choice(values=[8, 1])}}}, ("search", "space", "batch_size")),
    ],
)
def test_a_batch_of_fewer_rows_than_workers_is_refused_in_the_plan(changes: dict[str, Any], where: tuple[str, ...]) -> None:
    make_plan(tiny_study(**changes), Path.cwd())
    with pytest.raises(StudyError, match=r"1 is fewer rows than the 2 workers of a trial of 'sst2'") as raised:
        make_plan(tiny_study(**changes, resources=TWO), Path.cwd())
    assert raised.value.where == where


@given(rows=st.integers(8, 60), size=st.integers(4, 20), workers=st.integers(1, 4))
def test_what_is_let_through_gives_every_rank_rows_and_no_more_is_refused(rows: int, size: int, workers: int) -> None:
    study = tiny_study(resources={"engine": "inline", "workers": workers})
    batches = LengthBucketedBatches(np.ones(rows), size, 0).epoch(0)
    fits = all(len(shard(batch, rank, workers)) for batch in batches for rank in range(workers))
    try:
        check_smallest_batch(study, "sst2", TrainingSpec(batch_size=size, meta_batch_size=size), {"fit": rows, "meta": rows})
    except StudyError:
        assert not fits
    else:
        assert fits
