from __future__ import annotations

import sys

import pytest
import torch

from harness.peak_memory import peak_bytes, reset_peak

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux resets a process's peak")
def test_the_peak_of_one_trial_is_not_that_of_the_trial_before() -> None:
    reset_peak(CPU)
    large = torch.ones(100 * 2**20 // 4)
    with_large = peak_bytes(CPU)
    del large
    reset_peak(CPU)
    assert peak_bytes(CPU) < with_large - 90 * 2**20
