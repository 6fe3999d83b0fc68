"""`harness check` on a strategy that somebody else's installed package registers through the entry-point group."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT

STRATEGY = """
from strategies import Normalisation, Strategy


class HalfAndHalf(Strategy):
    name, family, summary, paper = "{name}", "fixed", "a constant", "none"
    sample_wise, normalisation = False, Normalisation.CONVEX

    def weights(self, context):
        return {{"ce": {ce}, "kd": 0.375}}
"""


def harness(folder: Path, *arguments: str, strategy: str) -> subprocess.CompletedProcess[str]:
    """The command line where a package "somebodys" is installed with this source."""
    (folder / "somebodys.py").write_text(strategy)
    metadata = folder / "somebodys-1.0.dist-info"  # what pip leaves of an installed package
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[harness.strategies]\nsomebodys = somebodys:HalfAndHalf\n")
    return subprocess.run(
        [sys.executable, "-m", "harness", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), str(folder)])},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("ce", "code"), [(0.625, 0), (0.7, 1)])
def test_an_installed_package_is_checked_by_its_strategys_name(tmp_path: Path, ce: float, code: int) -> None:
    done = harness(tmp_path, "check", "somebodys", strategy=STRATEGY.format(name="somebodys", ce=ce))
    assert done.returncode == code, done.stdout + done.stderr
    assert "checks passed" in done.stdout if code == 0 else "sum to 1.075" in done.stdout


@pytest.mark.parametrize("arguments", [("list", "strategies"), pytest.param(("check", "somebodys"), marks=pytest.mark.slow)])
def test_an_installed_package_that_does_not_say_what_it_is_is_an_error_that_names_it(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    strategy = STRATEGY.format(name="somebodys", ce=0.625).replace("sample_wise, normalisation = False,", "normalisation =")
    done = harness(tmp_path, *arguments, strategy=strategy)
    assert done.returncode == 2
    assert "package 'somebodys'" in done.stderr
    assert f"{tmp_path / 'somebodys.py'}:5" in done.stderr
    assert "missing: sample_wise" in done.stderr
    assert "Traceback" not in done.stderr
