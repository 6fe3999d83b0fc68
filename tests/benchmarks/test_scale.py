"""The benchmark of scale, at a size that shows that it runs."""

from __future__ import annotations

from pathlib import Path

from harness.run_state import run_state
from harness.store import Store
from tests.benchmarks.scale import SLOTS, simulate, synthesise


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
