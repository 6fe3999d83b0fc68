"""How often equals are found to differ: the size of the test that the tables and `harness compare` rest on."""

from __future__ import annotations

import numpy as np
import pytest

from harness.stats.bootstrap import two_sided_p
from harness.stats.paired import Seeds, sample_task

STUDIES = 200
ALLOWED = 0.05 + 2 * (0.05 * 0.95 / STUDIES) ** 0.5


def equals(rng: np.random.Generator, labels: np.ndarray, difficulty: np.ndarray, repeats: int, spread: float) -> np.ndarray:
    """Runs of one strategy: examples have their own difficulty, a run is better or worse as a whole, and errs here and there.

    A `spread` of 0.15 is a standard deviation of about 4 points of accuracy between runs, 0.05 of about 1.3.
    """
    margins = difficulty + rng.normal(0, spread, (repeats, 1)) + rng.normal(0, 0.35, (repeats, len(labels)))
    return np.where(margins > 0, labels, 1 - labels)


def found_to_differ(repeats: int, spread: float, tasks: int = 1) -> float:
    """Share of studies of two strategies that are the same by construction in which the mean over tasks has p < 0.05."""
    rng, found = np.random.default_rng(0), 0
    for seed in range(STUDIES):
        draws = []
        for task in range(tasks):
            labels, difficulty = rng.integers(0, 2, 300), rng.normal(0.9, 1.0, 300)
            both = np.stack([equals(rng, labels, difficulty, repeats, spread) for _ in "ab"])
            present = np.ones((2, repeats), np.bool_)
            place = seed * tasks + task
            sample = sample_task("accuracy", labels, both, present, 2, 400, Seeds(place, place + 1), tasks)
            draws.append(sample.contrast(0, 1).draws if tasks == 1 else sample.contrast(0, 1).pooled)
        found += float(two_sided_p(np.mean(draws, axis=0))) < 0.05
    return found / STUDIES


@pytest.mark.parametrize("repeats", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.15])
def test_equals_are_found_to_differ_in_one_of_twenty_studies_at_most(repeats: int, spread: float) -> None:
    assert found_to_differ(repeats, spread) <= ALLOWED


@pytest.mark.parametrize("spread", [0.05, 0.15])
def test_so_they_are_over_several_tasks(spread: float) -> None:
    assert found_to_differ(2, spread, tasks=3) <= ALLOWED


def test_one_repeat_knows_nothing_of_what_training_varies() -> None:
    """Why tables of one repeat say so: the examples alone cannot tell a lucky run from a better strategy."""
    assert found_to_differ(1, 0.0) <= ALLOWED
    assert found_to_differ(1, 0.15) > 0.3
