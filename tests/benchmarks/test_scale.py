"""The benchmark of scale, at a size that shows that it runs."""

from __future__ import annotations

from pathlib import Path

from harness.store.run_state import run_state
from harness.store.store import Store
from tests.benchmarks.scale import SLOTS, merged, simulate, synthesise, table


def test_a_simulated_study_leaves_what_a_real_one_does(tmp_path: Path) -> None:
    found = simulate(tmp_path / "run", cells=7)
    store = Store(tmp_path / "run")
    assert found["trials"] == len(store.keys()) == 105
    state = run_state(store.events())
    assert state is not None
    assert (state.finished, state.slots, state.running, state.ended) == (105, SLOTS, {}, True)
    assert found["own_cpu_ms_per_trial"] > 0


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
    assert "`first` and `second` on 2 cores" in table(found)
    assert merged({}, now, "second")["growth"] is None
