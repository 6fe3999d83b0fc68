from __future__ import annotations

import platform
import sys
import threading

import psutil
import pytest
import torch

from harness.training.peak_memory import peak_bytes, reset_peak

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux resets a process's peak")
def test_the_peak_of_one_trial_is_not_that_of_the_trial_before() -> None:
    reset_peak(CPU)
    large = torch.ones(100 * 2**20 // 4)
    with_large = peak_bytes(CPU)
    del large
    reset_peak(CPU)
    assert peak_bytes(CPU) < with_large - 90 * 2**20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what glibc keeps")
def test_what_a_trials_thread_has_freed_is_given_back() -> None:
    kept = []

    def trial() -> None:
        pieces = [b"x" * (60_000 + size) for size in range(3000)]  # too small for pages of their own
        kept.extend(pieces[::100])  # between the others, so that the heap cannot shrink from its end

    thread = threading.Thread(target=trial)
    thread.start()
    thread.join()
    before = psutil.Process().memory_info().rss
    reset_peak(CPU)
    assert psutil.Process().memory_info().rss < before - 100 * 2**20
