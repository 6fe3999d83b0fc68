"""30 % of the training labels are wrong on purpose and nobody is told which: who finds them, and does it help?

studies/planted_truth.yaml asks the same at a larger size, with its report.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.data.roles import load_training_rows
from harness.plan import load_plan, trial_spec
from harness.records import TrialRecord
from harness.trial import train_trial
from tests.conftest import PROJECT
from tests.harness.tiny import TEACHER, default_specs, prepared_plan, tiny_study

BATCH = 32
EPOCHS = 10
LEARNED = 5
"""From this epoch on the student knows enough for its losses to tell samples apart. Before, a meta-learner may well prefer the
flipped ones: to it they are rows that the student has wrong."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, TrialRecord], float]:
    """Records by strategy, and the standard deviation of one epoch's AUROC were the weights drawn at random."""
    cache = tmp_path_factory.mktemp("planted")
    config = {**TEACHER, "num_hidden_layers": 1}
    recipe = {"epochs": EPOCHS, "learning_rate": 2e-3, "batch_size": BATCH}
    study = tiny_study(
        tasks=["qnli"],
        strategies=["rw_kd", "shuffled(rw_kd)"],
        data={"source": "generated", "label_noise": 0.3, "generated": {"train_rows": 900, "report_rows": 100}, "max_length": 48},
        models={"student": {"config": config, "dropout": 0.0}, "teachers": [{"config": config, "training": recipe}]},
        training={**recipe, "meta_batch_size": BATCH},
    )
    specs = default_specs(study, cache)
    flipped = load_training_rows(cache, specs[0].data_digest).fit.flipped
    assert flipped is not None
    wrong, right = int(flipped.sum()), int((~flipped).sum())
    assert wrong == pytest.approx(0.3 * len(flipped), abs=1)
    deviation = math.sqrt((wrong + right + 1) / (12 * wrong * right))  # of the Mann-Whitney statistic
    return {spec.label: train_trial(spec, cache).record for spec in specs}, deviation


def aurocs(record: TrialRecord) -> list[float]:
    """Each epoch's AUROC of a low weight on the labels as a sign of a flipped one."""
    found = [epoch.weights["ce"].flipped_auroc for epoch in record.epochs]
    assert None not in found
    return [value for value in found if value is not None]


def test_rw_kd_gives_flipped_labels_less_weight(
    trained: tuple[dict[str, TrialRecord], float], capsys: pytest.CaptureFixture[str], record_property: Any
) -> None:
    records, deviation = trained
    found = aurocs(records["rw_kd"])
    record_property("auroc", found[-1])
    with capsys.disabled():
        print(f"\nrw_kd finds flipped labels with AUROC {found[-1]:.3f} (chance 0.5 +- {deviation:.3f})", end=" ")
    assert found[-1] > 0.5 + 5 * deviation


def test_the_shuffled_control_finds_nothing(
    trained: tuple[dict[str, TrialRecord], float], capsys: pytest.CaptureFixture[str], record_property: Any
) -> None:
    """A permutation of a batch leaves a sample its own weight once in a batch: so much of the AUROC remains."""
    records, deviation = trained
    found = aurocs(records["shuffled(rw_kd)"])[LEARNED:]
    mean = float(np.mean(found))
    remains = 0.5 + (aurocs(records["rw_kd"])[-1] - 0.5) / BATCH
    bound = 4 * deviation / math.sqrt(len(found))
    record_property("auroc", mean)
    with capsys.disabled():
        print(f"\nshuffled(rw_kd): AUROC {mean:.3f}, expected {remains:.3f} +- {bound:.3f}", end=" ")
    assert abs(mean - remains) < bound
