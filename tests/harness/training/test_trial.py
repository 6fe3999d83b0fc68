"""A trial from its specification to its record, on real rows, models and strategies."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.data.encode import SHORT, Encoded
from harness.data.roles import load_report_rows, load_training_rows
from harness.study.resources import TaskResources
from harness.study.tasks import task_metrics
from harness.training.failures import ChangedCodeError
from harness.training.trial import train_trial
from harness.training.trial_rows import training_parts
from strategies import Settings, resolve
from strategies.base import Needs
from tests.harness.models.families import ALL, few_at_first
from tests.harness.tiny import default_specs, tiny_study


def test_a_record_says_everything_about_its_trial(tmp_path: Path) -> None:
    (spec,) = default_specs(tiny_study(), tmp_path)
    outcome = train_trial(spec, tmp_path)
    record = outcome.record
    assert record.status == "ok"
    assert record.key == spec.key
    assert [epoch.epoch for epoch in record.epochs] == [0, 1]
    assert record.objective == max(epoch.select["accuracy"] for epoch in record.epochs)
    assert record.report["validation"].rows == 40
    predictions = outcome.predictions
    assert record.report["validation"].metrics == task_metrics(
        spec.task, predictions["label"].to_numpy(), predictions["predicted"].to_numpy()
    )
    np.testing.assert_allclose(predictions[["p0", "p1"]].sum(axis=1), 1, atol=1e-6)
    assert record.epochs[0].weights["ce"].mean == pytest.approx(0.5)
    assert record.epochs[0].weights["ce"].flipped_auroc == pytest.approx(0.5)  # a constant weight detects nothing
    assert record.majority["validation"].metrics["accuracy"] in {(predictions["label"] == k).mean() for k in (0, 1)}
    assert len(record.teacher_report) == 1


@pytest.mark.parametrize("strategy", ["fixed_alpha", "rw_kd"])
def test_the_same_specification_gives_the_same_numbers(tmp_path: Path, strategy: str) -> None:
    (spec,) = default_specs(tiny_study(strategies=[strategy]), tmp_path)
    first, second = train_trial(spec, tmp_path), train_trial(spec, tmp_path)
    assert first.predictions.equals(second.predictions)
    assert [e.train_loss for e in first.record.epochs] == [e.train_loss for e in second.record.epochs]


@pytest.mark.parametrize("strategy", ["fixed_alpha", "rw_kd", "random_weights"])
def test_a_resumed_trial_ends_as_an_undisturbed_one(tmp_path: Path, strategy: str) -> None:
    study = tiny_study(strategies=[strategy], training={"epochs": 3, "batch_size": 16, "learning_rate": 1e-3})
    study = study.model_copy(
        update={"models": study.models.model_copy(update={"student": study.models.student.model_copy(update={"dropout": 0.1})})}
    )
    (spec,) = default_specs(study, tmp_path)
    whole = train_trial(spec, tmp_path)

    class Killed(Exception):
        pass

    def killed_after_the_first_epoch(record: object, write: object) -> None:
        write(tmp_path / "checkpoint")  # type: ignore[operator]
        raise Killed

    with pytest.raises(Killed):
        train_trial(spec, tmp_path, on_epoch=killed_after_the_first_epoch)
    resumed = train_trial(spec, tmp_path, resume_from=tmp_path / "checkpoint")
    assert resumed.predictions.equals(whole.predictions)
    assert [e.train_loss for e in resumed.record.epochs] == [e.train_loss for e in whole.record.epochs]
    assert resumed.record.cost.student_forward == whole.record.cost.student_forward


def test_the_cost_of_plain_distillation_is_one_forward_and_one_backward_pass(tmp_path: Path) -> None:
    plain, meta = default_specs(tiny_study(strategies=["fixed_alpha", "rw_kd"]), tmp_path)
    rows = load_training_rows(tmp_path, plain.data_digest)
    cost = train_trial(plain, tmp_path).record.cost
    expected = 2 * (len(rows.fit.ids) + len(rows.meta.ids))
    assert (cost.student_forward, cost.student_backward, cost.teacher_forward) == (expected, expected, 0)
    assert train_trial(meta, tmp_path).record.cost.student_forward > 2 * len(rows.fit.ids)


@pytest.mark.parametrize(("budget", "joined"), [("equal_labels", True), ("equal_fit", False)])
def test_the_label_budget_decides_who_trains_on_the_meta_rows(tmp_path: Path, budget: str, joined: bool) -> None:
    (spec,) = default_specs(tiny_study(), tmp_path)
    rows = load_training_rows(tmp_path, spec.data_digest)
    fit, meta = training_parts(rows, Needs(), budget)
    assert meta is None
    assert len(fit.ids) == len(rows.fit.ids) + joined * len(rows.meta.ids)
    fit, meta = training_parts(rows, Needs(meta_set=True), budget)
    assert meta is not None
    assert not set(fit.ids) & set(meta.ids)
    fit, meta = training_parts(rows, resolve("fit_only(fixed_alpha)").needs(Settings()), budget)
    assert meta is None
    assert np.array_equal(fit.ids, rows.fit.ids)


def test_training_cannot_reach_the_report_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are read once, after the last optimiser step."""
    import harness.training.trial as trial

    read: list[str] = []
    trained: list[str] = []
    monkeypatch.setattr(trial, "load_report_rows", lambda *a: read.append("report") or load_report_rows(*a))
    (spec,) = default_specs(tiny_study(), tmp_path)

    def on_epoch(record: object, write: object) -> None:
        assert not read
        trained.append("epoch")

    train_trial(spec, tmp_path, on_epoch=on_epoch)
    assert len(trained) == 2
    assert read == ["report"]


def test_three_classes_and_two_report_splits(tmp_path: Path) -> None:
    (spec,) = default_specs(tiny_study(tasks=["mnli"]), tmp_path)
    record = train_trial(spec, tmp_path).record
    assert set(record.report) == {"validation", "validation_mismatched"}
    assert all(math.isfinite(score.metrics["accuracy"]) for score in record.report.values())


def test_a_student_that_diverges_says_so(tmp_path: Path) -> None:
    from harness.training.failures import DivergedError

    study = tiny_study(training={"epochs": 1, "batch_size": 16, "learning_rate": 1e30, "clip_norm": 1e30})
    (spec,) = default_specs(study, tmp_path)
    with pytest.raises(DivergedError, match="not finite"):
        train_trial(spec, tmp_path)


BLIND = '''
"""Weights that are no numbers from the second step on, in which terms are no numbers either from the third one on."""

from strategies import Normalisation, Settings, Strategy, register


@register
class Blind(Strategy[Settings]):
    name = "blind"
    family = "test"
    summary = "weights that are no numbers"
    paper = "none"
    sample_wise = False
    normalisation = Normalisation.FREE

    def weights(self, context):
        return {"ce": 1.0, "kd": 1.0 if context.step == 0 else float("nan")}
'''


def test_weights_that_are_no_numbers_are_the_strategy_s_fault(tmp_path: Path) -> None:
    from harness.training.failures import DivergedError

    plugin = tmp_path / "blind.py"
    plugin.write_text(BLIND)
    (spec,) = default_specs(tiny_study(strategies=["blind"], plugins=[str(plugin)]), tmp_path)
    with pytest.raises(DivergedError, match=r"in epoch 1, step 2, .* the weights of strategy 'blind' are not finite"):
        train_trial(spec, tmp_path)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_in_half_precision_batches_come_in_few_widths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """Each takes kernels of its own, which are kept by a warm process."""
    seen = set()
    inputs = Encoded.inputs

    def noting(self: Encoded, *given: object) -> dict[str, torch.Tensor]:
        found = inputs(self, *given)
        seen.add((found["input_ids"].shape[1], int(self.lengths.max())))
        return found

    training = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-3, "precision": precision}
    (spec,) = default_specs(tiny_study(strategies=["rw_kd"], training=training), tmp_path)
    monkeypatch.setattr(Encoded, "inputs", noting)
    train_trial(spec, tmp_path)
    uneven = {width for width, longest in seen if width % (2 if width <= SHORT else 8) and width != longest}
    assert bool(uneven) == (precision == "fp32")


def test_a_harness_that_is_not_the_planned_one_trains_nothing(tmp_path: Path) -> None:
    (spec,) = default_specs(tiny_study(), tmp_path)
    with pytest.raises(ChangedCodeError, match="planned 0123456789abcdef"):
        train_trial(spec.model_copy(update={"harness_code": "0123456789abcdef"}), tmp_path)


def test_two_workers_are_another_trial_than_one(tmp_path: Path) -> None:
    """They draw dropout for their own rows, and gave 0.695 and 0.775 under one key."""
    (spec,) = default_specs(tiny_study(), tmp_path)
    with_workers = {n: spec.model_copy(update={"resources": TaskResources(workers=n)}).key for n in (1, 2, 3)}
    assert with_workers[1] == spec.key
    assert len(set(with_workers.values())) == 3


def test_a_strategy_that_is_not_the_planned_one_is_not_trained(tmp_path: Path) -> None:
    """A file was changed after this process had loaded it, or before: the result would carry the wrong digest."""
    (spec,) = default_specs(tiny_study(), tmp_path)
    with pytest.raises(ChangedCodeError, match=r"'fixed_alpha' that this process has loaded .* planned 0123456789abcdef"):
        train_trial(spec.model_copy(update={"strategy_code": "0123456789abcdef"}), tmp_path)


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
