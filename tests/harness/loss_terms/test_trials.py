"""Whole trainings with loss terms that need more than logits: end to end, resumed, on two ranks, under the look-ahead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.records import TrialSpec
from harness.training.trial import train_trial
from tests.harness.tiny import STUDENT, TEACHER, VARIED, default_specs, tiny_study
from tests.harness.training.test_every_strategy import TRAIN_ALL
from tests.harness.two_workers import run_on_two_workers

TWO_LAYERS = {**STUDENT, **VARIED, "num_hidden_layers": 2}
LARGE = {**TEACHER, **VARIED}
EXTRA = ["layer_kd", "relational_kd", "word_kd", "part_kd", "dist_intra", "skew_kl"]
STRATEGIES: list[Any] = [
    "universal_kd",
    {"name": "msd", "settings": {"saliency": "population"}},
    "msd_learned",
    {"name": "self_kd", "teachers": ["self"]},
    "relational_kd",
    {"name": "word_importance", "settings": {"scores": "learned"}},
    {"name": "dwa", "settings": {"extra_terms": EXTRA}},
    {"name": "gradnorm", "settings": {"extra_terms": EXTRA}},
]
LEARNED = [0, 2, 3, 5]
"""Of these: with parameters of their own, or noise."""


def specs_of(cache: Path, strategies: list[Any], dropout: float = 0.0, **changes: Any) -> list[TrialSpec]:
    """Every strategy's default trial; those without `teachers` learn from the larger one."""
    entries = [{"name": entry} if isinstance(entry, str) else entry for entry in strategies]
    recipe = {"epochs": 1, "learning_rate": 1e-3}
    study = tiny_study(
        tasks=["rte"],
        strategies=[{"teachers": ["large"], **entry} for entry in entries],
        models={
            "student": {"config": TWO_LAYERS, "dropout": dropout},
            "teachers": [
                {"name": "large", "config": LARGE, "training": recipe},
                {"name": "self", "architecture": "student", "dropout": 0.1, "training": recipe},
            ],
        },
        **changes,
    )
    return default_specs(study, cache)


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[TrialSpec]]:
    cache = tmp_path_factory.mktemp("cache")
    return cache, specs_of(cache, STRATEGIES, dropout=0.1)


@pytest.mark.parametrize("index", range(len(STRATEGIES)))
def test_a_trial_runs_to_its_record(trials: tuple[Path, list[TrialSpec]], index: int) -> None:
    cache, specs = trials
    record = train_trial(specs[index], cache).record
    assert record.status == "ok"
    assert set(record.epochs[0].weights) == set(record.epochs[0].terms)
    assert len(record.epochs[0].terms) in (3, 2 + len(EXTRA))
    assert all(value > 0 for epoch in record.epochs for value in epoch.terms.values())
    assert record.epochs[-1].train_loss < record.epochs[0].train_loss


@pytest.mark.parametrize("index", LEARNED)
def test_a_resumed_trial_ends_as_an_undisturbed_one(trials: tuple[Path, list[TrialSpec]], index: int, tmp_path: Path) -> None:
    cache, specs = trials
    whole = train_trial(specs[index], cache)

    class Killed(Exception):
        pass

    def killed_after_the_first_epoch(record: object, write: Any) -> None:
        write(tmp_path)
        raise Killed

    with pytest.raises(Killed):
        train_trial(specs[index], cache, on_epoch=killed_after_the_first_epoch)
    resumed = train_trial(specs[index], cache, resume_from=tmp_path)
    assert resumed.predictions.equals(whole.predictions)
    assert [e.terms for e in resumed.record.epochs] == [e.terms for e in whole.record.epochs]


@pytest.mark.slow
def test_two_workers_train_as_one(tmp_path: Path) -> None:
    specs = specs_of(tmp_path, STRATEGIES)
    (tmp_path / "specs.jsonl").write_text("\n".join(spec.model_dump_json() for spec in specs))
    run_on_two_workers(TRAIN_ALL, str(tmp_path))
    for spec in specs:
        alone = train_trial(spec, tmp_path).record
        together = json.loads((tmp_path / f"{spec.key}.json").read_text())
        for one, two in zip(alone.epochs, together["epochs"], strict=True):
            assert two["train_loss"] == pytest.approx(one.train_loss, rel=1e-4), spec.label
            assert two["terms"] == pytest.approx(one.terms, rel=2e-3, abs=1e-5), spec.label
        assert together["cost"]["student_forward"] == alone.cost.student_forward


def test_parts_are_counted_as_passes(trials: tuple[Path, list[TrialSpec]]) -> None:
    cache, specs = trials
    plain, parts = (train_trial(specs[index], cache).record.cost for index in (0, 1))
    assert (parts.student_forward, parts.student_backward) == (3 * plain.student_forward, 3 * plain.student_backward)
