"""Every test runs on one thread, offline, and with a cache of its own."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["MPLBACKEND"] = "Agg"

import pytest
from hypothesis import settings

# first calls import libraries, which takes longer than any deadline; a run must fail the same way every time
settings.register_profile("project", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("project")

PROJECT = Path(__file__).resolve().parent.parent


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the marks in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two processes run the tests. A file's stay together, for its fixtures, and the engine's, for their Ray cluster."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group("engine" if "engine" in item.path.parts else str(item.path)))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def shared_glue() -> Path:
    """The folder with real GLUE rows beside the project; the test is skipped where there is none."""
    path = PROJECT.parent / "shared" / "glue"
    if not path.is_dir():
        pytest.skip("needs ../shared/glue")
    return path
