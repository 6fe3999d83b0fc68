"""Studies as files, small enough to be run whole by the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from strategies import registry
from tests.harness.tiny import tiny_study

PLUGIN = """
from strategies import Normalisation, Strategy, register

class _Base(Strategy):
    family, summary, paper, sample_wise, normalisation = "test", "test", "none", False, Normalisation.FREE

@register
class Raising(_Base):
    name = "raising"
    def weights(self, context):
        raise ValueError("this strategy always fails")

@register
class Interrupting(_Base):
    name = "interrupting"
    def weights(self, context):
        raise KeyboardInterrupt
"""

StudyWriter = Callable[..., Path]


@pytest.fixture
def study_file(tmp_path: Path) -> StudyWriter:
    """Writes a tiny study whose store is `tmp_path`/results/tiny."""

    def write(**changes: Any) -> Path:
        study = tiny_study(results=str(tmp_path / "results"), **changes)
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(json.loads(study.model_dump_json()), sort_keys=False))
        return path

    return write


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A plugin file with the strategies `raising` and `interrupting`, which are gone again after the test."""
    registry.strategy_names()  # the built-in ones are there before the copy
    monkeypatch.setattr(registry, "_strategies", dict(registry._strategies))
    (tmp_path / "plugin.py").write_text(PLUGIN)
    return "plugin.py"
