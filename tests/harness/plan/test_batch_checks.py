"""No rank of a trial is left without rows of a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data.batches import LengthBucketedBatches
from harness.errors import StudyError
from harness.plan.batch_checks import check_smallest_batch
from harness.plan.plan import make_plan
from harness.ranks import shard
from harness.study.schema import TrainingSpec
from strategies.space import Choice, IntRange
from tests.harness.tiny import tiny_study

TWO = {"engine": "inline", "workers": 2}


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"training": {"batch_size": 1}}, ("training", "batch_size")),
        ({"training": {"meta_batch_size": 1}}, ("training", "meta_batch_size")),
        ({"training_per_task": {"sst2": {"batch_size": 1}}}, ("training_per_task", "sst2", "batch_size")),
        ({"search": {"space": {"batch_size": IntRange(low=1, high=8)}}}, ("search", "space", "batch_size")),
        ({"search": {"space": {"batch_size": Choice(values=[8, 1])}}}, ("search", "space", "batch_size")),
    ],
)
def test_a_batch_of_fewer_rows_than_workers_is_refused_in_the_plan(changes: dict[str, Any], where: tuple[str, ...]) -> None:
    make_plan(tiny_study(**changes), Path.cwd())
    with pytest.raises(StudyError, match=r"1 is fewer rows than the 2 workers of a trial of 'sst2'") as raised:
        make_plan(tiny_study(**changes, resources=TWO), Path.cwd())
    assert raised.value.where == where


@given(rows=st.integers(8, 60), size=st.integers(4, 20), workers=st.integers(1, 4))
def test_what_is_let_through_gives_every_rank_rows_and_no_more_is_refused(rows: int, size: int, workers: int) -> None:
    study = tiny_study(resources={"engine": "inline", "workers": workers})
    batches = LengthBucketedBatches(np.ones(rows), size, 0).epoch(0)
    fits = all(len(shard(batch, rank, workers)) for batch in batches for rank in range(workers))
    try:
        check_smallest_batch(study, "sst2", TrainingSpec(batch_size=size, meta_batch_size=size), {"fit": rows, "meta": rows})
    except StudyError:
        assert not fits
    else:
        assert fits
