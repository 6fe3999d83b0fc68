"""A pass that is captured for a few shapes trains as one that is not. What captures is a stand-in here, but on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import harness.models.graphed_pass as graphed_pass
from harness.models.build import build_model, run_model
from harness.models.graphed_pass import WIDTH_STEP, Capture, GraphedPass, Pass, padded
from harness.ranks import Single
from harness.records import TrialSpec
from harness.study.schema import ModelSpec
from harness.training.loop import Training
from harness.training.trial import make_training, train_trial
from tests.harness.tiny import STUDENT, default_specs, tiny_study

CPU = torch.device("cpu")


def spec_of(tmp_path: Path, **training: object) -> TrialSpec:
    study = tiny_study(strategies=["wsl"])
    config = {**STUDENT, "num_hidden_layers": 2}
    student = study.models.student.model_copy(update={"config": config, "dropout": 0.0})
    study = study.model_copy(update={"models": study.models.model_copy(update={"student": student})})
    (spec,) = default_specs(study, tmp_path)
    return spec.model_copy(update={"training": spec.training.model_copy(update=training)})


def trained(spec: TrialSpec, cache: Path, capture: Capture | None = None) -> Training:
    training = make_training(spec, cache, Single(), CPU).training
    training.model.double()
    if capture is not None:
        training.weighting.student.run = training.graphed_pass = GraphedPass(capture)
    training.run()
    return training


def expect_equal(found: Training, expected: Training) -> None:
    for name, value in expected.model.state_dict().items():
        # Adam's first steps divide a gradient by itself: one that is rounding alone (a key's bias) moves at full size
        if not name.endswith("key.bias"):
            torch.testing.assert_close(found.model.state_dict()[name], value, rtol=1e-7, atol=1e-8, msg=name)


def on_buffers(captured: list[tuple[int, ...]]) -> Capture:
    """As a CUDA graph does, always computes what lies in the tensors that it was captured with."""

    def capture(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> Pass:
        captured.append(tuple(inputs[0].shape))
        buffers = [given.clone() for given in inputs]
        held: list[torch.Tensor] = []

        def replay(*given: torch.Tensor) -> torch.Tensor:
            for buffer, new in zip(buffers, given, strict=True):
                buffer.copy_(new)
            logits: torch.Tensor = model(*buffers)
            for earlier in held:
                earlier.data.fill_(torch.nan)
            held[:] = [logits]
            return logits

        return replay

    return capture


def test_each_shape_is_captured_once_and_students_are_those_of_other_passes(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    captured: list[tuple[int, ...]] = []
    found = trained(spec, tmp_path, on_buffers(captured))
    expect_equal(found, trained(spec, tmp_path))
    assert len(set(captured)) == len(captured) == found.progress.cost.graphs
    assert 0 < len(captured) < found.total_steps
    assert all(width % WIDTH_STEP == 0 for _, width in captured)


@pytest.mark.parametrize(("length", "width"), [(5, 16), (16, 16), (17, 20), (20, 20)])
def test_batches_are_padded_as_far_as_the_model_has_positions(length: int, width: int) -> None:
    model = build_model(ModelSpec(config={**STUDENT, "max_position_embeddings": 20}), 2, 0, 500)
    given = {"input_ids": torch.full((2, length), 7), "attention_mask": torch.ones(2, length, dtype=torch.long)}
    wide = padded(model, given)
    assert {tensor.shape for tensor in wide.values()} == {(2, width)}
    assert wide["attention_mask"].sum() == 2 * length
    torch.testing.assert_close(run_model(model.eval(), wide).logits, run_model(model, given).logits)


def test_a_second_batch_of_a_shape_is_not_the_first(tmp_path: Path) -> None:
    """What the test above would not see, were every buffer kept as it was captured and each shape met once."""
    model = make_training(spec_of(tmp_path), tmp_path, Single(), CPU).training.model.train()
    run = GraphedPass(on_buffers([]))
    first, second = (
        {"input_ids": torch.full((2, 5), k), "attention_mask": torch.ones(2, 5, dtype=torch.int64)} for k in (1, 2)
    )
    kept, other = run(model, first).logits, run(model, second).logits
    assert not torch.equal(kept, other)
    assert torch.equal(kept, GraphedPass(on_buffers([]))(model, first).logits)  # also after the next replay


def refused(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> Pass:
    raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize(
    ("capture", "most", "said"),
    [
        (lambda: refused, 24, "so none is used: operation not permitted when stream is capturing"),
        (lambda: on_buffers([]), 1, "batches of more than 1 shapes: the others are passed without a graph"),
    ],
)
def test_what_cannot_be_captured_is_said_once_and_passed_without(
    capture: Callable[[], Capture],
    most: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(graphed_pass, "AT_MOST", most)
    spec = spec_of(tmp_path, batch_size=12)
    found = trained(spec, tmp_path, capture())
    (record,) = caplog.records
    assert record.message.startswith("training.compile: graphs: ")
    assert record.message.endswith(said)
    expect_equal(found, trained(spec, tmp_path))


def test_on_a_cpu_it_is_without_effect_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = spec_of(tmp_path)
    asked = spec.model_copy(update={"training": spec.training.model_copy(update={"compile": "graphs"})})
    assert asked.key != spec.key  # on a GPU other dropout masks are drawn
    found, plain = train_trial(asked, tmp_path), train_trial(spec, tmp_path)
    assert [record.message for record in caplog.records] == [
        "training.compile: graphs is without effect where a trial runs on a CPU"
    ]
    assert found.record.cost.graphs == 0
    assert [epoch.train_loss for epoch in found.record.epochs] == [epoch.train_loss for epoch in plain.record.epochs]


@pytest.mark.gpu
def test_on_a_gpu_graphs_train_the_same_student(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, precision="fp32")
    asked = spec.model_copy(update={"training": spec.training.model_copy(update={"compile": "graphs"})})
    device = torch.device("cuda")
    found, plain = (make_training(one, tmp_path, Single(), device).training for one in (asked, spec))
    for training in (found, plain):
        training.run()
    assert found.progress.cost.graphs > 0
    for one, other in zip(found.progress.records, plain.progress.records, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-4)
