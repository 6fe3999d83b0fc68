"""The benchmarks' own code, at settings that show that it runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.store.run_state import run_state
from harness.store.store import Store
from tests.benchmarks import data_path, gpu, packed, start, step
from tests.benchmarks.__main__ import one
from tests.benchmarks.measure import compared, in_turns, median_ratio
from tests.benchmarks.outcome import Options, Outcome, Target, keep, kept, scale_table, summary, write
from tests.benchmarks.scale import SLOTS, merged, simulate, start_again, synthesise

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
    assert calls == [("b", 0), ("a", 0), ("a", 0), ("b", 0), ("b", 1), ("a", 1)]
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 2, "b": 2}
    assert median_ratio([2.0, 8.0, 3.0], [1.0, 1.0, 1.0]) == 3.0


def test_rounds_end_at_the_limit_and_warm_up_sees_what_they_see() -> None:
    calls: list[int] = []

    def own_seconds(k: int) -> float:
        calls.append(k)
        return 7.0 + k

    seconds = in_turns({"a": own_seconds}, rounds=9, warm_up=2, limit=0)
    assert calls == [0, 1, 0, 1, 2]
    assert seconds == {"a": [7.0, 8.0, 9.0]}


def test_alternatives_are_compared_within_rounds() -> None:
    first, second, third = compared({"a": [1.0, 4.0, 2.0], "b": [2.0, 8.0, 3.0], "c": [1.0, 4.0, 1.0]}, {"c": "a"})
    assert "of the one before" not in first
    assert (second["of the first"], second["of the one before"]) == (2.0, 2.0)
    assert (third["ms"], third["of the one before"], third["of all rounds"]) == (1000.0, 1.0, round(6 / 7, 3))


def test_the_summary_says_what_was_missed(tmp_path: Path) -> None:
    targets = [Target("speed", 3.0, at_least=4.0), Target("cost", 1.0, at_most=1.5), Target("bf16", None, at_least=2.0)]
    write(Outcome("one", [{"a": 1}, {"a": 2, "b": 3}], ["a note"], targets), "one", tmp_path, ABOUT)
    scale = {"simulated": [{"trials": 7}], "read": [], "commands": ["scale"], "cores": 2, "growth": None}
    keep(tmp_path, "scale", scale)  # of another program
    summary(tmp_path)
    lines = (tmp_path / "README.md").read_text("utf-8").splitlines()
    (speed,) = [line for line in lines if "speed" in line]
    (cost,) = [line for line in lines if "cost" in line]
    assert ">= 4 " in speed
    assert "no" in speed.split("|")[-2]
    assert "yes" in cost.split("|")[-2]
    (bf16,) = [line for line in lines if "bf16" in line]
    assert [cell.strip() for cell in bf16.split("|")[3:6]] == ["not measured", ">= 2", ""]
    assert "- a note" in lines
    assert lines.index("## one: one") < lines.index("## scale: the harness around simulated trials")


@pytest.mark.slow  # tests/harness/commands/test_start.py is the fast one
def test_commands_that_look(tmp_path: Path) -> None:
    assert len(start.run(Options(None, tmp_path, tmp_path, small=True)).targets) == len(start.COMMANDS)


def test_on_real_text(tmp_path: Path, real_glue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_path, "TASKS", ("cola",))
    outcome = data_path.run(Options(None, tmp_path, tmp_path / "cache", small=True))
    assert all(target.found > 0 for target in outcome.targets)
    assert outcome.targets


def test_a_cut_run_leaves_what_it_had(tmp_path: Path, real_glue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(options: Options) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(step.rw_kd, "run", cut)
    with pytest.raises(KeyboardInterrupt):
        one("step", None, tmp_path, small=True)
    found = kept(tmp_path)["step"]
    assert found["notes"][0] == "Cut short. Not whole: plain, rw_kd, epoch, process."
    ways = {row["way"]: row["ms"] for row in found["rows"] if row["precision"] == "fp32"}
    assert 0 < ways[step.PRODUCTS] < ways[step.OLD]
    assert "matrix products alone" in (tmp_path / "README.md").read_text("utf-8")


@pytest.mark.slow
def test_every_stage_of_a_step(tmp_path: Path, real_glue: Path) -> None:
    *parts, whole = step.run(Options(None, tmp_path, tmp_path / "cache", small=True))
    assert {row["stage"] for row in whole.rows} == {"plain", "rw_kd", "interval", "memory", "epoch", "allocator"}
    assert all("Cut short" in part.notes[0] for part in parts)
    assert "Cut short" not in whole.notes[0]
    assert {target.what for target in whole.targets if target.found is None} >= {
        "cola: an epoch of torchdistill 1.1.5, times the harness's in fp32"
    }


@pytest.mark.parametrize("count", [1, 3])
def test_stacked_students_are_those_trained_alone(count: int) -> None:
    assert packed.difference("tiny", count) < 1e-9


def test_gpu_part_says_that_there_is_none(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert gpu.run(Options(None, tmp_path, tmp_path)).rows == [{"GPU": "none"}]


@pytest.mark.slow
def test_a_simulated_study_leaves_what_a_real_one_does(tmp_path: Path) -> None:
    found = simulate(tmp_path / "run", cells=7)
    store = Store(tmp_path / "run")
    assert found["trials"] == len(store.keys()) == 105
    state = run_state(store.events())
    assert state is not None
    assert (state.finished, state.slots, state.running, state.ended) == (105, SLOTS, {}, True)
    assert found["own_cpu_ms_per_trial"] > 0
    assert start_again(tmp_path / "run", cells=7) > 0


def test_a_synthesised_store_is_whole(tmp_path: Path) -> None:
    synthesise(tmp_path / "store", 70)
    store = Store(tmp_path / "store")
    assert len(store.records()) == 70
    assert not store.damaged


def test_measurements_of_other_sizes_stay() -> None:
    before = {
        "commands": ["first"],
        "cores": 2,
        "simulated": [{"trials": 10, "own_cpu_ms_per_trial": 4.0}, {"trials": 100, "own_cpu_ms_per_trial": 5.0}],
        "read": [{"records": 10, "status_s": 1.0}, {"records": 1000, "status_s": 9.0}],
        "growth": 1.25,
    }
    now = {"cores": 2, "simulated": [], "read": [{"records": 100, "status_s": 2.0}, {"records": 10, "status_s": 1.5}]}
    found = merged(before, now, "second")
    assert found["simulated"] == before["simulated"]
    assert [(row["records"], row["status_s"]) for row in found["read"]] == [(10, 1.5), (100, 2.0), (1000, 9.0)]
    assert found["growth"] == 1.25
    assert found["commands"] == ["first", "second"]
    assert "`first` and `second` on 2 cores" in scale_table(found)
    assert merged({}, now, "second")["growth"] is None
