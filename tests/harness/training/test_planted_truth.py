"""30 % of the training labels are wrong on purpose and nobody is told which: who finds them, and does it help?

studies/planted_truth.yaml asks the same at a larger size, with its report.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.data.roles import load_training_rows
from harness.records import TrialRecord
from harness.study.file import read_study
from harness.study.schema import Study
from harness.training.trial import train_trial
from tests.conftest import PROJECT
from tests.harness.tiny import TEACHER, default_specs, tiny_study

pytestmark = pytest.mark.slow
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
        data={
            "source": "generated",
            "label_noise": 0.3,
            "generated": {"train_rows": 900, "report_rows": 100},
            "max_length": 48,
        },
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


def say(capsys: pytest.CaptureFixture[str], line: str) -> None:
    """Seen in the output of a run that passes, too."""
    with capsys.disabled():
        sys.stdout.write(f"\n{line} ")


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
    say(capsys, f"rw_kd finds flipped labels with AUROC {found[-1]:.3f} (chance 0.5 +- {deviation:.3f})")
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
    say(capsys, f"shuffled(rw_kd): AUROC {mean:.3f}, expected {remains:.3f} +- {bound:.3f}")
    assert abs(mean - remains) < bound


WORLDS = (3, 4, 5, 6, 7)
"""The explanation below was found with others: 0, 1 and 2."""


def world(seed: int) -> Study:
    """The published study with data, flips, teacher and students anew. Its repeats share the first three."""
    overrides = [f"seed={seed}", f"data.seed={seed}", "search.repeats=1", "strategies=[ce_only,rw_kd]"]
    study = read_study(PROJECT / "studies" / "planted_truth.yaml", overrides).study
    teachers = [teacher.model_copy(update={"seed": seed}) for teacher in study.models.teachers]
    return study.model_copy(update={"models": study.models.model_copy(update={"teachers": teachers})})


@pytest.mark.timeout(3000)
def test_students_end_where_their_teachers_stand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Expected was: rw_kd above ce_only on average. In these worlds it is below, by 2 points, as the teacher is.

    A sample's two weights sum to 1, so what rw_kd takes from a label it gives to the teacher, and what tells it that a label is
    wrong is the teacher's disagreement. The rows that the teacher has wrong look like flipped ones. So rw_kd finds the flips
    and learns the teacher's function, errors included; the teacher learned from the same noisy labels.
    """
    rows = []
    for seed in WORLDS:
        records = {
            (spec.task.name, spec.label): train_trial(spec, tmp_path).record for spec in default_specs(world(seed), tmp_path)
        }
        for task in ("sst2", "qnli"):
            labels, weighed = records[task, "ce_only"], records[task, "rw_kd"]
            scores = (labels.report, weighed.report, weighed.teacher_report[0])
            rows.append([seed, task, *(score["validation"].metrics["accuracy"] for score in scores), aurocs(weighed)[-1]])
    say(capsys, "seed task  ce_only  rw_kd  teacher  AUROC")
    for seed, task, *numbers in rows:
        say(capsys, f"{seed:4} {task}   " + "   ".join(f"{number:.3f}" for number in numbers))
    ce_only, rw_kd, teacher, auroc = np.array([row[2:] for row in rows], float).T
    gain, lead = rw_kd - ce_only, teacher - ce_only
    say(capsys, f"rw_kd above ce_only by {gain.mean():+.3f}, the teacher by {lead.mean():+.3f}")
    assert (auroc > 0.6).all()
    assert abs((rw_kd - teacher).mean()) < 0.02
    assert np.corrcoef(gain, lead)[0, 1] > 0.7
    clear = np.abs(lead) > 0.02
    assert (np.sign(gain) == np.sign(lead))[clear].mean() >= 0.8
