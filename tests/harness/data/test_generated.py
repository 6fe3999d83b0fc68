from __future__ import annotations

import numpy as np
import pytest

from harness.data.source import load_task
from harness.study import DataSpec, GeneratedSpec
from harness.tasks import GLUE


def spec(seed: int = 0, flipped: float = 0.0) -> DataSpec:
    return DataSpec(source="generated", seed=seed, generated=GeneratedSpec(train_rows=300, report_rows=50, flipped=flipped))


@pytest.mark.parametrize("name", GLUE)
def test_every_task_has_glues_shape_and_is_a_function_of_its_seed(name: str) -> None:
    data, again, other = load_task(GLUE[name], spec()), load_task(GLUE[name], spec()), load_task(GLUE[name], spec(seed=1))
    assert len(data.train.texts) == len(GLUE[name].text)
    assert data.train.texts == again.train.texts
    assert data.train.texts != other.train.texts
    shares = np.bincount(data.train.labels, minlength=len(GLUE[name].labels)) / 300
    assert (shares > 0.2).all()
    assert data.report["validation"].texts != data.train.take(np.arange(50)).texts
    assert ("validation_mismatched" in data.report) == (name == "mnli")


def test_planted_flips_are_wrong_labels_and_their_mask_is_kept() -> None:
    clean, flipped = load_task(GLUE["mnli"], spec()).train, load_task(GLUE["mnli"], spec(flipped=0.3)).train
    assert clean.flipped is None
    assert flipped.flipped is not None
    assert flipped.flipped.mean() == pytest.approx(0.3)
    assert clean.texts == flipped.texts
    np.testing.assert_array_equal(clean.labels != flipped.labels, flipped.flipped)
