"""Students that pass their batches together are trained as each would be alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.loss_terms.registry import pass_refusal
from harness.ranks import Ranks, Single
from harness.records import TrialSpec
from harness.training.failures import DivergedError
from harness.training.stacked import Seat, run_stacked
from harness.training.trial import MadeTraining, TrialOutcome, make_training, train_trial
from strategies import resolve
from tests.harness.tiny import STUDENT, default_specs, tiny_study

TWO_LAYERS = {**STUDENT, "num_hidden_layers": 2}
ROBERTA = {**STUDENT, "model_type": "roberta", "num_hidden_layers": 2, "max_position_embeddings": 64}


def specs_of(tmp_path: Path, config: dict[str, Any], dropout: float = 0.1) -> list[TrialSpec]:
    """Strategies that share no state, and students that differ in seeds, learning rates and widths of batches."""
    study = tiny_study(strategies=["fixed_alpha", "ce_only", "annealing_kd", "wsl", "uncertainty"])
    student = study.models.student.model_copy(update={"config": config, "dropout": dropout})
    study = study.model_copy(update={"models": study.models.model_copy(update={"student": student})})
    found = []
    for k, spec in enumerate(default_specs(study, tmp_path)):
        seeds = spec.seeds.model_copy(update={name: getattr(spec.seeds, name) + k for name in ("student", "order", "dropout")})
        recipe = spec.training.model_copy(update={"learning_rate": 1e-3 * (k + 1), "batch_size": 16 - 3 * k})
        found.append(spec.model_copy(update={"seeds": seeds, "training": recipe}))
    return found


def in_double(spec: TrialSpec, cache: Path, ranks: Ranks) -> MadeTraining:
    made = make_training(spec, cache, ranks, torch.device("cpu"))
    made.training.model.double()
    return made


def trained_in_double(spec: TrialSpec, cache: Path, ranks: Ranks) -> dict[str, torch.Tensor]:
    training = in_double(spec, cache, ranks).training
    training.run()
    return {name: tensor.detach().clone() for name, tensor in training.model.state_dict().items()}


@pytest.mark.parametrize("config", [TWO_LAYERS, ROBERTA], ids=["bert", "roberta"])
def test_parameters_after_two_epochs_are_those_of_single_trainings(tmp_path: Path, config: dict[str, Any]) -> None:
    specs = specs_of(tmp_path, config)
    together = run_stacked([lambda seat, spec=spec: trained_in_double(spec, tmp_path, seat) for spec in specs])
    for spec, found in zip(specs, together, strict=True):
        assert isinstance(found, dict), found
        for name, expected in trained_in_double(spec, tmp_path, Single()).items():
            # Adam's first steps divide a gradient by itself: one that is rounding alone (a key's bias) moves at full size
            if not name.endswith("key.bias"):
                torch.testing.assert_close(found[name], expected, rtol=1e-7, atol=1e-8, msg=lambda said, n=name: f"{n}: {said}")


def test_records_and_predictions_are_those_of_single_trials(tmp_path: Path, passes: list[int]) -> None:
    specs = specs_of(tmp_path, TWO_LAYERS)
    together = run_stacked(trials(specs, tmp_path))
    assert max(passes) == len(specs)
    for spec, found in zip(specs, together, strict=True):
        expect_alike(found, train_trial(spec, tmp_path))


def test_in_half_precision_they_leave_the_process_as_it_was(tmp_path: Path, passes: list[int]) -> None:
    specs = [
        spec.model_copy(update={"training": spec.training.model_copy(update={"precision": "bf16"})})
        for spec in specs_of(tmp_path, TWO_LAYERS)[:2]
    ]
    before = sdpa_kernels()
    run_stacked(trials(specs, tmp_path))
    assert max(passes) == len(specs)
    assert sdpa_kernels() == before


def sdpa_kernels() -> dict[str, bool]:
    """Which kernels of attention the process allows."""
    names = ("flash", "mem_efficient", "math", "cudnn")
    return {name: getattr(torch.backends.cuda, f"{name}_sdp_enabled")() for name in names}


def test_a_failing_and_a_resumed_student_leave_the_others_as_they_are(tmp_path: Path, passes: list[int]) -> None:
    specs = specs_of(tmp_path, TWO_LAYERS)[:3]
    alone = [train_trial(spec, tmp_path) for spec in specs]
    wild = specs[0].model_copy(
        update={"training": specs[0].training.model_copy(update={"learning_rate": 1e30, "clip_norm": 1e30})}
    )

    class Killed(Exception):
        pass

    def killed(record: object, write: Callable[[Path], None]) -> None:
        write(tmp_path / "checkpoint")
        raise Killed

    first = run_stacked(
        [
            lambda seat: train_trial(wild, tmp_path, seat),
            lambda seat: train_trial(specs[1], tmp_path, seat, on_epoch=killed),
            lambda seat: train_trial(specs[2], tmp_path, seat),
        ]
    )
    assert isinstance(first[0], DivergedError)
    assert isinstance(first[1], Killed)
    expect_alike(first[2], alone[2])
    second = run_stacked(
        [
            lambda seat: train_trial(specs[0], tmp_path, seat),
            lambda seat: train_trial(specs[1], tmp_path, seat, resume_from=tmp_path / "checkpoint"),
        ]
    )
    expect_alike(second[0], alone[0])
    expect_alike(second[1], alone[1])
    assert {1, 2, 3} >= set(passes) > {2}


def test_where_memory_lacks_for_all_each_goes_on_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import harness.training.stacked as stacked

    def lacks(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    specs = specs_of(tmp_path, TWO_LAYERS)[:2]
    monkeypatch.setattr(stacked, "stacked_logits", lacks)
    for spec, found in zip(specs, run_stacked(trials(specs, tmp_path)), strict=True):
        expect_alike(found, train_trial(spec, tmp_path, micro_batches=2))


def test_an_interruption_ends_all(tmp_path: Path) -> None:
    specs = specs_of(tmp_path, TWO_LAYERS)[:2]
    ended = []

    def interrupt() -> None:
        raise KeyboardInterrupt

    def trial(seat: Seat, spec: TrialSpec) -> TrialOutcome:
        try:
            return train_trial(spec, tmp_path, seat, on_epoch=lambda *_: seat.in_main_thread(interrupt))
        finally:
            ended.append(spec.strategy)

    with pytest.raises(KeyboardInterrupt):
        run_stacked([lambda seat, spec=spec: trial(seat, spec) for spec in specs])
    assert len(ended) == 2


def test_an_error_after_a_pass_ends_all_where_it_is_to(tmp_path: Path) -> None:
    specs = specs_of(tmp_path, TWO_LAYERS)[:2]

    def trial(seat: Seat, spec: TrialSpec) -> TrialOutcome:
        def on_step(step: int, loss: torch.Tensor) -> None:
            if step == 2 and spec is specs[1]:
                raise OSError("the folder is gone")

        return train_trial(spec, tmp_path, seat, on_step=on_step)

    seats: list[Callable[[Seat], TrialOutcome]] = [lambda seat, spec=spec: trial(seat, spec) for spec in specs]
    with pytest.raises(OSError, match="the folder is gone"):
        run_stacked(seats, stop_at_error=True)
    found = run_stacked(seats)
    expect_alike(found[0], train_trial(specs[0], tmp_path))
    assert isinstance(found[1], OSError)


@pytest.mark.parametrize(
    ("strategy", "said"), [("fixed_alpha", ""), ("rw_kd", "looks ahead"), ("mgda", "needs gradients of its terms")]
)
def test_what_cannot_share_passes_is_told(strategy: str, said: str) -> None:
    registered = resolve(strategy)
    assert pass_refusal(registered.needs(registered.settings({}))) == said


def test_models_that_cannot_be_stacked_are_told_once_and_train_as_alone(
    tmp_path: Path, passes: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    distilbert = {"model_type": "distilbert", "dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}
    specs = specs_of(tmp_path, distilbert)[:2]
    for spec, found in zip(specs, run_stacked(trials(specs, tmp_path)), strict=True):
        expect_alike(found, train_trial(spec, tmp_path))
    said = "students are passed one by one: a model of type distilbert cannot be stacked, only bert and roberta"
    assert ([record.message for record in caplog.records], passes) == ([said], [])


def trials(specs: list[TrialSpec], cache: Path) -> list[Callable[[Seat], TrialOutcome]]:
    return [lambda seat, spec=spec: train_trial(spec, cache, seat) for spec in specs]


def expect_alike(found: TrialOutcome | BaseException, alone: TrialOutcome) -> None:
    assert isinstance(found, TrialOutcome), found
    for one, other in zip(found.record.epochs, alone.record.epochs, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-5)
        assert one.terms == pytest.approx(other.terms, rel=1e-4, abs=1e-7)
    for split in ("p0", "p1"):
        np.testing.assert_allclose(found.predictions[split], alone.predictions[split], atol=2e-5)
    assert found.record.cost.student_forward == alone.record.cost.student_forward
    assert (found.record.cost.stacked > 1, alone.record.cost.stacked) == (True, 1)
    assert found.record.report["validation"].rows == alone.record.report["validation"].rows


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many students each pass had."""
    import harness.training.stacked as stacked

    found: list[int] = []
    real = stacked.stacked_logits
    monkeypatch.setattr(stacked, "stacked_logits", lambda batches: found.append(len(batches)) or real(batches))
    return found
