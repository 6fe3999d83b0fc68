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


@pytest.mark.parametrize(("ce", "code"), [(0.625, 0), (0.7, 1)])
def test_an_installed_package_is_checked_by_its_strategys_name(tmp_path: Path, ce: float, code: int) -> None:
    (tmp_path / "somebodys.py").write_text(STRATEGY.format(name="somebodys", ce=ce))
    metadata = tmp_path / "somebodys-1.0.dist-info"  # what pip leaves of an installed package
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[harness.strategies]\nsomebodys = somebodys:HalfAndHalf\n")
    done = subprocess.run(
        [sys.executable, "-m", "harness", "check", "somebodys"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), str(tmp_path)])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "checks passed" in done.stdout if code == 0 else "sum to 1.075" in done.stdout
