"""Every test runs on one thread, offline, and with a cache of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["MPLBACKEND"] = "Agg"

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from harness.report.plots import PLOTS
from strategies.registry import load_builtin_strategies

# first calls import libraries, which takes longer than any deadline; a run must fail the same way every time
settings.register_profile("project", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("project")

PROJECT = Path(__file__).resolve().parent.parent
GLUE_TASKS = ("cola", "sst2", "mrpc", "rte", "qnli", "mnli", "qqp")


class _FilesTogether(LoadFileScheduling):
    """Two processes run the tests. A file's stay together, for its fixtures; so do the engine's, for their Ray cluster, and
    those of reports, for the report with all its plots.

    No marks: pytest-xdist 3.8 under pytest 9.2 takes no notice of `xdist_group` (pytest-dev/pytest-xdist, issue 1386).
    """

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return next((room for room in ("engine", "report") if f"tests/harness/{room}/" in file), file)


def first_of_each(kinds: dict[str, Any]) -> list[Any]:
    """Cases (name -> kind) of a test that takes seconds each: the first of every kind is fast, the others are slow."""
    seen: set[Any] = set()
    params = []
    for name, kind in kinds.items():
        params.append(pytest.param(name, marks=pytest.mark.slow if kind in seen else ()))
        seen.add(kind)
    return params


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    return _FilesTogether(config, log)


@pytest.fixture(scope="session", autouse=True)
def _all_strategies() -> None:
    """Before tests that put a registry of their own in its place, and take what they made away again."""
    load_builtin_strategies()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def _one_plot(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports hold the forest plot alone, outside of the tests of reports: drawing all takes longer than most studies here."""
    if "/report/" not in request.node.nodeid:
        monkeypatch.setattr("harness.report.plots.PLOTS", PLOTS[:1])


def find_glue() -> Path | None:
    """A folder with `TASK/train.parquet` for each of GLUE's tasks, as on the hub: $GLUE, else `glue` in a folder beside the
    checkout; None where there is none. Real rows are never a part of the project.
    """
    given = os.environ.get("GLUE")
    found = [Path(given)] if given else sorted(PROJECT.parent.glob("*/glue"))
    return next((folder for folder in found if all((folder / task / "train.parquet").is_file() for task in GLUE_TASKS)), None)


@pytest.fixture
def real_glue() -> Path:
    """A folder with real GLUE rows; the test is skipped where there is none."""
    path = find_glue()
    if path is None:
        pytest.skip("needs real GLUE rows: $GLUE, or `glue` in a folder beside the checkout")
    return path
