from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.training.weight_log import WeightLog, detection_auroc


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
