"""Every strategy among teachers, from a study with teachers of different depth and seed to its records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.data.teacher_outputs import TeacherOutputs
from harness.engine.inline import run_plan
from harness.plan.plan import make_plan
from harness.store.store import Store
from harness.study.schema import Study
from harness.teachers.prepare import prepare
from harness.training.trial import train_trial
from harness.watching.console import Console
from tests.harness.tiny import TEACHER, VARIED, default_specs, tiny_study

AMONG_TEACHERS = [
    "uniform_ensemble",
    "random_single",
    "weighted_ensemble",
    "best_single",
    "stacked_ensemble",
    "ebkd",
    "ca_mkd",
    "ae_kd",
    "mmkd",
    "mtkd_rl",
    "rl_kd",
]


def three_teachers(**changes: object) -> Study:
    """Two layers twice, with two seeds, and one layer; from weights that tell rows apart: no two strategies coincide."""
    recipe = {"epochs": 4, "learning_rate": 3e-3}
    teachers = [
        {"name": "two_a", "config": TEACHER | VARIED, "seed": 1, "training": recipe},
        {"name": "two_b", "config": TEACHER | VARIED, "seed": 2, "training": recipe},
        {"name": "one", "config": TEACHER | VARIED, "layers": [0], "seed": 1, "training": recipe},
    ]
    study = tiny_study(**changes)
    return Study.model_validate({**study.model_dump(), "models": {**study.models.model_dump(), "teachers": teachers}})


def test_teachers_of_different_seed_and_depth_are_different_teachers(tmp_path: Path) -> None:
    plan = make_plan(three_teachers(), Path.cwd())
    prepared = prepare(plan, tmp_path, Console(quiet=True))["sst2"]
    assert list(prepared.teacher_digests) == ["two_a", "two_b", "one"]
    outputs = [TeacherOutputs.load(tmp_path, digest) for digest in prepared.teacher_digests.values()]
    assert outputs[0].parameters == outputs[1].parameters > outputs[2].parameters
    assert not np.allclose(outputs[0].all_logits, outputs[1].all_logits)


@pytest.mark.slow
def test_all_strategies_among_teachers_through_the_inline_engine(tmp_path: Path) -> None:
    wrapped = ["shuffled(rl_kd)", "batch_mean(ca_mkd)"]
    alone = {"name": "rl_kd", "label": "one teacher", "teachers": ["one"]}
    # teachers are nearly alike here: without an agent that moves, and at once, its weights differ from equal ones by rounding
    moving = {"equal_epochs": 0, "update_every": 2, "agent_learning_rate": 10.0}
    entries = [{"name": n, "settings": moving} if n == "mtkd_rl" else n for n in AMONG_TEACHERS]
    study = three_teachers(strategies=["ce_only", "fixed_alpha", *entries, *wrapped, alone])
    plan = make_plan(study, Path.cwd())
    prepared = prepare(plan, tmp_path / "cache", Console(quiet=True))
    store = Store(tmp_path / "results")
    with store.writing():
        run_plan(plan, prepared, store, Console(quiet=True), tmp_path / "cache")
    records = {record.spec.label: record for record in store.records()}
    assert len(records) == len(plan.cells)
    assert {record.status for record in records.values()} == {"ok"}
    assert all(record.epochs[-1].weights["kd_each"].mean > 0 for label, record in records.items() if label in AMONG_TEACHERS)
    # the mean over teachers as a term, and equal weights of the terms, are one loss
    one, other = records["fixed_alpha"], records["uniform_ensemble"]
    assert [epoch.train_loss for epoch in one.epochs] == pytest.approx([epoch.train_loss for epoch in other.epochs], rel=1e-4)
    losses = {label: records[label].epochs[-1].train_loss for label in AMONG_TEACHERS}
    assert len(set(losses.values())) == len(losses)


@pytest.mark.parametrize(
    "strategy", ["rl_kd", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mtkd_rl", "mmkd", "random_single"))]
)
def test_a_resumed_trial_ends_as_an_undisturbed_one(tmp_path: Path, strategy: str) -> None:
    """In the middle of an episode: an epoch has 9 batches or 8, an episode 10."""
    study = three_teachers(
        strategies=[strategy], training={"epochs": 3, "batch_size": 16, "learning_rate": 1e-3, "meta_batch_size": 8}
    )
    (spec,) = default_specs(study, tmp_path)
    whole = train_trial(spec, tmp_path)

    class Killed(Exception):
        pass

    def killed_after_the_second_epoch(record: object, write: object) -> None:
        if record.epoch == 1:  # type: ignore[attr-defined]
            write(tmp_path / "checkpoint")  # type: ignore[operator]
            raise Killed

    with pytest.raises(Killed):
        train_trial(spec, tmp_path, on_epoch=killed_after_the_second_epoch)
    resumed = train_trial(spec, tmp_path, resume_from=tmp_path / "checkpoint")
    assert resumed.predictions.equals(whole.predictions)
    assert [e.train_loss for e in resumed.record.epochs] == [e.train_loss for e in whole.record.epochs]
