"""The library alone needs little: a project that distils does not have to install, or wait for, what benchmarks need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT

HEAVY = ("ray", "optuna", "matplotlib", "pandas", "datasets", "accelerate")


def run(code: str, cwd: Path, path: str = str(PROJECT)) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_imports_without_what_only_benchmarks_need(tmp_path: Path) -> None:
    code = f"""
import sys
for name in {HEAVY!r}:
    sys.modules[name] = None  # an import raises ImportError
import harness.library
harness.library.StrategyLoss, harness.library.rows_from_features
try:
    harness.library.StrategyTrainer
except ImportError as error:
    print(error)
"""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "pip install 'kd-weighting-harness[trainer]'" in done.stdout


def test_a_folder_of_the_user_s_that_hides_the_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "__init__.py").write_text("")
    done = run("import harness.library", tmp_path, f"{tmp_path}{os.pathsep}{PROJECT}")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError")
    assert str(tmp_path / "strategies") in last


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    import harness.library

    with pytest.raises(AttributeError, match="it has StrategyLoss, StrategyTrainer, rows_from_features"):
        harness.library.Strategy  # noqa: B018
