"""The benchmarks' own code, at settings that show that it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.benchmarks import data_path, gpu, packed, start, teacher_outputs
from tests.benchmarks.measure import in_turns, median_ratio
from tests.benchmarks.outcome import Options, Outcome, Target, summary, write

ABOUT = {
    "load_before": 0,
    "load_after": 0,
    "seconds": 1,
    "processor": "p",
    "cores": 2,
    "gpu": "none",
    "torch": "t",
    "small": True,
}


def test_alternatives_take_turns() -> None:
    calls: list[tuple[str, int]] = []
    seconds = in_turns({name: lambda k, name=name: calls.append((name, k)) for name in "ab"}, rounds=2)
    assert calls == [("a", 0), ("b", 0), ("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 2, "b": 2}
    assert median_ratio([2.0, 8.0, 3.0], [1.0, 1.0, 1.0]) == 3.0


def test_the_summary_says_what_was_missed(tmp_path: Path) -> None:
    targets = [Target("speed", 3.0, at_least=4.0), Target("cost", 1.0, at_most=1.5)]
    write(Outcome("one", [{"a": 1}, {"a": 2, "b": 3}], ["a note"], targets), "one", tmp_path, ABOUT)
    (tmp_path / "scale.json").write_text(json.dumps({"simulated": []}))  # of another program
    summary(tmp_path)
    lines = (tmp_path / "README.md").read_text("utf-8").splitlines()
    (speed,) = [line for line in lines if "speed" in line]
    (cost,) = [line for line in lines if "cost" in line]
    assert ">= 4 " in speed
    assert "no" in speed.split("|")[-2]
    assert "yes" in cost.split("|")[-2]
    assert "- a note" in lines


def test_commands_that_look(tmp_path: Path) -> None:
    assert len(start.run(Options(None, tmp_path, tmp_path, small=True)).targets) == len(start.COMMANDS)


@pytest.mark.parametrize("benchmark", [data_path, teacher_outputs])
def test_on_real_text(tmp_path: Path, real_glue: Path, monkeypatch: pytest.MonkeyPatch, benchmark: object) -> None:
    monkeypatch.setattr(data_path, "TASKS", ("cola",))
    monkeypatch.setattr(teacher_outputs, "TASKS", ("cola",))
    outcome = benchmark.run(Options(None, tmp_path, tmp_path / "cache", small=True))
    assert all(target.found > 0 for target in outcome.targets)
    assert outcome.targets


@pytest.mark.parametrize("count", [1, 3])
def test_stacked_students_are_those_trained_alone(count: int) -> None:
    assert packed.difference("tiny", count) < 1e-9


def test_gpu_part_says_that_there_is_none(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert gpu.run(Options(None, tmp_path, tmp_path)).rows == [{"GPU": "none"}]
