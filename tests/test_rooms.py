"""The rooms' order: held by import-linter's contracts in pyproject.toml, and seen to break where an import breaks it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT

LINT = "import sys; from importlinter.cli import lint_imports_command as command; sys.exit(command(['--no-cache']))"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The code and its contracts, to change."""
    for package in ("harness", "strategies"):
        shutil.copytree(PROJECT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(folder: Path) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", LINT], cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_order_of_the_rooms_holds(copy: Path) -> None:
    code, said = lint(copy)
    assert code == 0, said


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("harness/training/loop.py", "def late() -> None:\n    import harness.plan.plan\n", "Rooms"),
        ("harness/study/tasks.py", "from harness.study import schema\n", "No circle within a room"),
        ("harness/store/files.py", "import ray\n", "Only the engine imports Ray"),
        ("harness/plan/grid.py", "import torch\n", "import no torch"),
        ("strategies/space.py", "import harness.errors\n", "Strategies know nothing"),
        ("harness/stats/power.py", "import harness.records\n", "Statistics are a leaf"),
        ("harness/report/cells.py", "import harness.watching.progress\n", "Reports read the store"),
        ("harness/new_room.py", "", "Rooms"),
    ],
)
def test_an_import_that_breaks_it_is_found(copy: Path, file: str, line: str, contract: str) -> None:
    target = copy / file
    target.write_text((target.read_text("utf-8") if target.exists() else "") + line, "utf-8")
    code, said = lint(copy)
    assert code == 1, said
    assert any(contract in row and "BROKEN" in row for row in said.splitlines()), said
