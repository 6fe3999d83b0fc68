"""The README's example strategy is complete and does what the README says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.conformance import check
from harness.training.trial import train_trial
from tests.conftest import PROJECT
from tests.harness.tiny import default_specs, tiny_study


@pytest.fixture
def example(tmp_path: Path) -> Path:
    blocks = re.findall(r"```python\n(.*?)```", (PROJECT / "README.md").read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 1
    file = tmp_path / "trust.py"
    file.write_text(blocks[0])
    return file


def test_the_example_passes_conformance_and_trains_as_a_plugin(example: Path, tmp_path: Path) -> None:
    report = check(example)
    assert report.passed, str(report)
    (spec,) = default_specs(tiny_study(plugins=[str(example)], strategies=["trust"]), tmp_path / "cache")
    record = train_trial(spec, tmp_path / "cache").record
    weights = record.epochs[-1].weights
    assert weights["ce"].mean + weights["kd"].mean == pytest.approx(1, abs=1e-5)
    assert record.spec.settings == {"power": 2.0}


def test_every_file_that_the_readme_names_exists() -> None:
    text = (PROJECT / "README.md").read_text("utf-8")
    named = set(re.findall(r"\b(?:studies|tests|strategies|results)/[\w/.]+\.(?:yaml|md|py|png)", text))
    assert named
    assert not [name for name in named if not (PROJECT / name).is_file()]
