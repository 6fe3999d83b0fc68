"""Resources decide on the device, not what the machine has. On a simulated GPU: tests/benchmarks/gpu/test_simulated_cuda.py."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from harness.training.device import device_for
from harness.training.trial import train_trial
from tests.harness.tiny import default_specs, tiny_study

ON_CPU = {"engine": "inline", "gpus_per_worker": 0}


def _not_asked(*_: object) -> None:
    raise AssertionError("a GPU that was not given was asked for something")


@pytest.fixture
def machine_with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever uses it fails."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("get_device_name", "_lazy_init", "set_per_process_memory_fraction", "is_bf16_supported"):
        monkeypatch.setattr(torch.cuda, name, _not_asked)


@pytest.mark.usefixtures("machine_with_gpu")
def test_without_a_gpu_in_the_resources_teachers_and_trials_leave_it_alone(tmp_path: Path) -> None:
    study = tiny_study(resources=ON_CPU, training={"epochs": 1, "batch_size": 32})
    (spec,) = default_specs(study, tmp_path)  # makes the teacher
    record = train_trial(spec, tmp_path).record
    assert (record.cost.device, record.cost.precision) == ("cpu", "fp32")
    assert record.environment["accelerator"] == "none"


@pytest.mark.parametrize("gpus", [0.25, 1, 2])
def test_a_share_is_held_to_and_attention_does_not_plan_for_every_shape(gpus: float, monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        assert device_for(gpus).type == "cuda"
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
    assert shares == [min(1, gpus)]


def test_a_gpu_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with caplog.at_level(logging.WARNING, "harness"):
        assert device_for(0.5).type == "cpu"
    assert "gpus_per_worker is 0.5, and PyTorch finds no GPU" in caplog.text
