"""Every family of sequence classifiers, as teacher and as student of one trial."""

import pytest

from harness.training.trial import train_trial
from tests.harness.models.families import ALL, few_at_first
from tests.harness.tiny import default_specs, tiny_study


@pytest.mark.parametrize("kind", [few_at_first(kind) for kind in ALL])
def test_a_teacher_and_a_student(kind, tmp_path):
    training = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3}
    study = tiny_study(
        strategies=["relational_kd"],  # wants pooled vectors of both
        data={"source": "generated", "generated": {"train_rows": 60, "report_rows": 20}, "max_length": 24},
        models={"student": {"config": ALL[kind]}, "teachers": [{"config": ALL[kind], "training": training}]},
        training={**training, "meta_batch_size": 8},
    )
    (spec,) = default_specs(study, tmp_path)
    record = train_trial(spec, tmp_path).record
    assert record.status == "ok"
    assert record.report["validation"].rows == 20
    assert record.teacher_report[0]["validation"].rows == 20
    (folder,) = (tmp_path / "teachers").iterdir()
    assert (folder / "train_features.npy").is_file()
