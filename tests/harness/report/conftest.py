from __future__ import annotations

from pathlib import Path

import pytest

from harness.report import Report, build_report
from harness.report.leaderboard import Leaderboard, make_leaderboard
from tests.harness.report.stores import SEVEN, Planted, build_store

TASKS = ("cola", "mrpc", "mnli", "rte")


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Complete: 4 tasks, 8 strategies (one with three teachers), a control, 2 searches of 2 trials, flips, a failed cell."""
    path = tmp_path_factory.mktemp("report") / "planted"
    strategies = (*SEVEN, "shuffled(rw_kd)", "ca_mkd")
    failed = frozenset({("rte", "wsl", 1)})
    build_store(path, Planted(TASKS, strategies, trials=2, flipped=0.2, failed=failed, teachers_kept=True))
    return path


@pytest.fixture(scope="session")
def holes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 tasks, 4 strategies, 2 repeats; one cell of wsl is missing."""
    path = tmp_path_factory.mktemp("holes") / "planted"
    strategies = ("ce_only", "fixed_alpha", "wsl", "rw_kd")
    build_store(path, Planted(("sst2", "rte"), strategies, trials=2, rows=60, missing=frozenset({("sst2", "wsl", 1)})))
    return path


@pytest.fixture(scope="session")
def board(study: Path) -> Leaderboard:
    return make_leaderboard(study, draws=800)


@pytest.fixture(scope="session")
def board_with_holes(holes: Path) -> Leaderboard:
    return make_leaderboard(holes, draws=300)


@pytest.fixture(scope="session")
def report(study: Path) -> Report:
    return build_report(study)
