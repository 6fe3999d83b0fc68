"""The digest of what makes numbers, on a copy of the harness."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import PROJECT

Edit = Callable[[str], str]


@pytest.fixture
def digest_after(tmp_path: Path) -> Callable[[str, Edit], str]:
    """Of a copy of the harness with one file edited, as a new process finds it."""
    for package in ("harness", "strategies"):
        shutil.copytree(PROJECT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))

    def edited(name: str, edit: Edit) -> str:
        file = tmp_path / "harness" / name
        before = file.read_text("utf-8")
        file.write_text(edit(before), "utf-8")
        try:
            code = "from harness.numeric_code import numeric_code; print(numeric_code())"
            return subprocess.run(
                [sys.executable, "-c", code],
                cwd=tmp_path,
                env={"PYTHONPATH": str(tmp_path)},
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
        finally:
            file.write_text(before, "utf-8")

    return edited


def test_numbers_count_and_words_do_not(digest_after: Callable[[str, Edit], str]) -> None:
    as_it_is = digest_after("__init__.py", lambda text: text)
    for name, changed in (
        ("loss_terms/losses.py", lambda text: text.replace("temperature**2", "temperature**3")),
        ("ranks.py", lambda text: text + "\nWORLD = 3\n"),
    ):
        assert digest_after(name, changed) != as_it_is, name
    for name, reworded in (
        (
            "loss_terms/losses.py",
            lambda text: text.replace('"""', '"""Said otherwise: ', 1).replace("\nimport", "\n# why\nimport", 1),
        ),
        ("training/trial.py", lambda text: text.replace("that this process has loaded makes", "of this process makes")),
        ("training/failures.py", lambda text: text + "\nKINDS = 6\n"),
        ("data/hub.py", lambda text: text + "\nRETRIES = 6\n"),
    ):
        assert digest_after(name, reworded) == as_it_is, name
