from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.training.trial import TrialOutcome, train_trial
from harness.training.weight_log import WeightLog, detection_auroc
from tests.harness.tiny import STUDENT, TEACHER, default_specs, tiny_study


def test_an_epoch_is_summarised_over_its_steps() -> None:
    log = WeightLog(np.array([True, False, False, False]))
    log.add(np.array([2, 0]), {"ce": torch.tensor([0.8, 0.1])}, torch.tensor([True, False]))
    log.add(np.array([1, 3]), {"ce": torch.tensor([0.6, 0.5])}, torch.tensor([True, True]))
    found = log.summary()["ce"]
    assert found.mean == pytest.approx(0.5)
    assert (found.quantiles[0], found.quantiles[-1]) == pytest.approx((0.1, 0.8))
    assert (found.teacher_right, found.teacher_wrong) == pytest.approx((1.9 / 3, 0.1))
    assert found.flipped_auroc == 1.0  # the flipped row has the least weight
    assert found.by_row is None


def test_of_several_teachers_the_sum_is_summarised_and_each_ones_share_kept() -> None:
    log = WeightLog(None)
    log.add(np.array([0, 1]), {"kd_each": torch.tensor([[0.5, 0.3], [0.0, 0.2]])}, None)
    log.add(np.array([2]), {"kd_each": torch.tensor([[0.1], [0.4]])}, None)
    found = log.summary()["kd_each"]
    assert found.mean == pytest.approx(0.5)
    assert found.quantiles == pytest.approx([0.5] * 7)
    assert found.by_row == pytest.approx([0.3, 0.2])


def test_nothing_is_detected_without_both_kinds() -> None:
    assert detection_auroc(np.array([0.1, 0.2]), np.array([True, True])) is None


def topics(classes: int) -> dict[str, Any]:
    """A generated task of so many classes."""
    return {"name": "topics", "text": ["text"], "labels": [f"topic{k}" for k in range(classes)]}


def students(task: Any, cache: Path) -> dict[str, TrialOutcome]:
    """Of forward KL, AKL and ToDi, without labels."""
    alone = {"kd_weight": 1.0}
    study = tiny_study(
        tasks=[task],
        strategies=["kd_only", {"name": "akl", "settings": alone}, {"name": "todi", "settings": alone}],
        data={"source": "generated", "generated": {"train_rows": 600, "report_rows": 200}, "max_length": 24},
        models={
            "student": {"config": STUDENT, "dropout": 0.0},
            "teachers": [{"config": TEACHER, "training": {"epochs": 8, "learning_rate": 8e-3}}],
        },
        training={"epochs": 8, "batch_size": 32, "learning_rate": 8e-3},
    )
    return {spec.label: train_trial(spec, cache) for spec in default_specs(study, cache)}


@pytest.mark.slow
def test_akl_and_todi_part_from_forward_kl_where_there_are_more_than_two_classes(tmp_path: Path) -> None:
    """How far AKL's weights lie apart within an epoch, and the students' total variation from forward KL's."""
    spread, apart = {}, {}
    for name, task in {"two": topics(2), "mnli": "mnli", "six": topics(6), "twenty": topics(20)}.items():
        found = students(task, tmp_path / name)
        quantiles = found["akl"].record.epochs[0].weights["kd"].quantiles
        spread[name] = quantiles[-1] - quantiles[0]
        said = {}
        for label, outcome in found.items():
            rows = outcome.predictions
            said[label] = rows[[column for column in rows if column[0] == "p" and column[1:].isdigit()]].to_numpy()
        apart[name] = {label: float(np.abs(said[label] - said["kd_only"]).sum(1).mean()) / 2 for label in ("akl", "todi")}
    assert spread.pop("two") < 1e-5
    assert min(spread.values()) > 0.05
    for name in ("six", "twenty"):
        assert all(apart[name][label] > 2 * apart["two"][label] for label in ("akl", "todi")), apart
