from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.errors import UserError
from harness.report.compare import Side, compare, compare_sides
from harness.report.predictions import load_predictions
from harness.report.selection import select
from tests.conftest import PROJECT
from tests.harness.report.stores import Planted, build_store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compare") / "one"
    gains = {"rw_kd": 0.09, "wsl": 0.0}
    build_store(path, Planted(("sst2", "qnli"), ("fixed_alpha", "wsl", "rw_kd"), repeats=4, trials=1, rows=500, gains=gains))
    return path


def test_a_planted_gain_is_called_better_and_its_mirror_worse(folder: Path) -> None:
    shown = compare("rw_kd", "fixed_alpha", results=str(folder), draws=1000)
    assert "Verdict: rw_kd over 2 tasks (mean): better than fixed_alpha." in shown
    mirror = compare("fixed_alpha", "rw_kd", results=str(folder), draws=1000)
    assert "fixed_alpha over 2 tasks (mean): worse than rw_kd." in mirror
    assert max(map(len, shown.splitlines())) <= 80
    assert len(shown.splitlines()) < 24  # one screen


def test_no_gain_is_undecided_and_says_what_could_have_been_seen(folder: Path) -> None:
    shown = compare("wsl", "fixed_alpha", results=str(folder), task="sst2", draws=1000)
    assert "Verdict: wsl on sst2: undecided (would need " in shown
    assert "No difference could have been seen: sign-flips of so few runs" in " ".join(shown.split())
    found, _ = compare_sides(Side(select(folder), "wsl"), Side(select(folder), "fixed_alpha"), draws=1000)
    assert found is not None
    over_both = compare("wsl", "fixed_alpha", results=str(folder), draws=1000)
    assert f"could have been seen is {100 * found.over_tasks.detectable:.1f} points" in " ".join(over_both.split())


def test_two_folders(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "two"
    build_store(other, Planted(("sst2",), ("fixed_alpha", "ce_only"), repeats=4, trials=1, rows=500))
    shown = compare(str(folder), str(other), draws=200)
    assert "fixed_alpha (one) against fixed_alpha (two)" in shown
    assert "one student, trained twice" in " ".join(shown.split())  # the same planted run
    assert "equivalent within 0.5" in shown
    assert "ce_only" not in shown


def test_other_examples_are_not_paired(folder: Path, tmp_path: Path) -> None:
    build_store(tmp_path / "few", Planted(("mrpc",), ("fixed_alpha",), trials=1, rows=30))
    assert "Nothing can be compared" in compare(str(folder), str(tmp_path / "few"), draws=50)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("rw_kdd", "wsl", "FOLDER", None), "Did you mean 'rw_kd'"),
        (("rw_kd", "wsl", "FOLDER", "sst"), "Did you mean 'sst2'"),
        (("rw_kd", "wsl", None, None), "--results"),
    ],
)
def test_what_is_not_there_is_said(folder: Path, arguments: tuple[str, ...], says: str) -> None:
    first, second, results, task = arguments
    with pytest.raises(UserError, match=says):
        compare(first, second, results=str(folder) if results else None, task=task)


def test_a_failed_run_is_compared_as_the_majority_predictor(study: Path) -> None:
    found, left_out = compare_sides(Side(select(study), "wsl"), Side(select(study), "fixed_alpha"), "rte", 200)
    assert left_out == []
    assert found is not None
    assert found.sampled.repeats == 2


@pytest.mark.slow
def test_a_paired_multi_bootstrap_of_a_published_study_finds_the_same_differences() -> None:
    """Nine pairs of strategy and task: to a tenth of a point."""
    selection = select(PROJECT / "results" / "glue_minilm")
    rng = np.random.default_rng(0)
    for label in ("rw_kd", "wsl", "ce_only"):
        for task in ("sst2", "qnli", "qqp"):
            found, _ = compare_sides(Side(selection, label), Side(selection, "fixed_alpha"), task, 2000)
            predictions = load_predictions(selection, task, (label, "fixed_alpha"))
            assert found is not None
            assert predictions is not None
            right = (predictions.predicted == predictions.labels).astype(float)
            _, seeds, rows = right.shape
            drawn = []
            for _ in range(4000):
                resampled = right[:, rng.integers(0, seeds, seeds)][:, :, rng.integers(0, rows, rows)].mean((1, 2))
                drawn.append(resampled[0] - resampled[1])
            assert 100 * found.over_tasks.value == pytest.approx(100 * np.mean(drawn), abs=0.1)
