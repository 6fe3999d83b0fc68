from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.stats.paired import point_scores
from harness.study.tasks import compute_metrics


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews"])
@settings(max_examples=40, deadline=None)
@given(data=st.data(), classes=st.integers(2, 4))
def test_scores_from_counts_are_the_tasks_metrics(metric: str, data: st.DataObject, classes: int) -> None:
    rows = data.draw(st.integers(2, 30))
    column = st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows)
    labels = np.array(data.draw(column))
    predicted = np.array([data.draw(column) for _ in range(2)])
    want = [compute_metrics([metric], labels, row, classes)[metric] for row in predicted]
    np.testing.assert_allclose(point_scores(metric, labels, predicted, classes), want, atol=1e-12)
