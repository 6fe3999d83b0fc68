"""What `harness status` says of a running study, from a log of events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from harness.__main__ import main
from harness.records import TrialRecord
from harness.store.run_state import RunState, last_working_run, run_state
from harness.store.store import Store
from harness.watching.event_log import KINDS, EventLog
from harness.watching.status_text import describe
from tests.harness.report.stores import make_spec

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(offset: float, kind: str, **fields: Any) -> dict[str, Any]:
    assert kind in KINDS
    return {"time": (START + timedelta(seconds=offset)).isoformat(), "kind": kind, **fields}


def trial(offset: float, kind: str, key: str, **fields: Any) -> dict[str, Any]:
    return at(offset, kind, cell=f"sst2/{key}/0", key=key, purpose="search", trial=0, **fields)


LOG = [
    at(-500, "started", trials=10, cells=3),
    trial(-400, "trial_started", "old"),  # its process was killed: it does not run any more
    at(0, "started", trials=10, cells=3),
    at(1, "teacher_started", task="sst2", teacher="big", digest="t1"),
    at(1, "teacher_started", task="rte", teacher="big", digest="t2"),
    at(9, "teacher_finished", task="sst2", teacher="big", digest="t1"),
    at(10, "teacher_failed", task="rte", teacher="big", digest="t2", error="DivergedError: nan"),
    at(10, "slots", slots=2, cells=3),
    trial(10, "trial_started", "a"),
    trial(10, "trial_started", "b"),
    trial(20, "epoch", "a", epoch=1, train_loss=0.5, select={}, seconds=9),
    trial(30, "trial_finished", "a", objective=0.5, train_seconds=15.0, total_seconds=19.0),
    trial(30, "trial_started", "c"),
    trial(40, "trial_retried", "b", error="lost"),
    at(40, "node_lost", node="n", cpus=1, gpus=0),
    trial(50, "trial_failed", "b", error_kind="infrastructure", error="lost"),
    trial(60, "epoch", "c", epoch=2, train_loss=0.5, select={}, seconds=9),
]


def state_of(events: list[dict[str, Any]]) -> RunState:
    state = run_state(events)
    assert state is not None
    return state


def test_teachers_that_train_are_shown_with_their_progress() -> None:
    def teacher(seconds: float, kind: str, name: str, **fields: Any) -> dict[str, Any]:
        return at(seconds, kind, task="rte", teacher=name, digest=name, **fields)

    progress = {"epoch": 2, "epochs": 3, "loss": 0.51234, "seconds_left": 240.0}
    log = [
        at(0, "started", trials=4, cells=2),
        *(teacher(1, "teacher_started", name) for name in ("big", "small", "done")),
        *(teacher(9, "teacher_progress", name, **progress) for name in ("big", "done")),
        teacher(10, "teacher_finished", "done"),
    ]
    assert describe(state_of(log), active=True, to_go=4) == [
        "teacher rte/big: epoch 2 of 3, loss 0.512, about 4 min of training left",
        "teachers being made: rte/small",
    ]


def test_what_runs_how_fast_and_how_long() -> None:
    state = state_of(LOG)
    assert list(state.running) == ["c"]
    assert state.running["c"].epochs == 2
    assert (state.finished, state.failed, state.retried, state.nodes_lost, state.teachers) == (2, 1, 1, 1, {})
    now = START + timedelta(seconds=70)
    assert state.rate(now) == pytest.approx(2 / 60 * 3600)
    assert state.slot_use() == pytest.approx(15 / (2 * 40))
    lines = describe(state, active=True, to_go=8, now=now)
    assert lines == [
        "running: sst2/c/0 trial 0, 2 epochs done, for 40 s",
        "2 trials ended in the last run, 120 an hour on 2 slots; about 4 min left; "
        "slot use 19% (training time / slots x wall time)",
        "in the last run: 1 failed, 1 times tried again, 1 nodes lost",
    ]
    assert describe(state, active=False, to_go=8, now=now)[0] == "no process is running this study now"


def test_how_fast_a_run_was_is_the_same_ever_after() -> None:
    ended = [*LOG, at(70, "ended")]
    for log, seconds in ((LOG, 50), (ended, 60), ([*ended, {**at(9e5, "ended"), "kind": "merged"}], 60)):
        expected = f"2 trials ended in the last run, {2 / seconds * 3600:.3g} an hour"
        assert describe(state_of(log), active=False, to_go=8, now=START + timedelta(days=9))[1].startswith(expected)


def test_trials_that_are_silent_and_a_run_in_which_nothing_moves_are_shown() -> None:
    stood = [at(60, "trial_stalled", cell="sst2/c/0", key="c", error="no sign"), at(61, "nothing_moves", running=1, waiting=3)]
    state = state_of([*LOG, *stood])
    now = START + timedelta(seconds=70)
    lines = describe(state, active=True, to_go=8, now=now, silent={"c": 600.0})
    assert lines[0] == "running: sst2/c/0 trial 0, 2 epochs done, for 40 s, silent for 10 min"
    assert lines[1].startswith("nothing moves: 3 trials wait for a process")
    assert "1 stood still and were ended" in lines[-1]
    moved = trial(65, "epoch", "c", epoch=3)
    assert not any("nothing moves" in line for line in describe(state_of([*LOG, *stood, moved]), active=True, to_go=8, now=now))


def test_stopped_trials_and_idle_slots_count_in_slot_use() -> None:
    events = [
        at(0, "started", trials=2, cells=2),
        at(0, "slots", slots=4, cells=1),
        trial(0, "trial_started", "a"),
        trial(10, "trial_stopped", "a", epoch=1, train_seconds=8.0, total_seconds=9.0),
        at(15, "slots", slots=1, cells=1),  # trials of another shape: four slots were idle for 5 s
        trial(15, "trial_started", "b"),
        trial(25, "trial_finished", "b", objective=0.5, train_seconds=6.0, total_seconds=9.0),
    ]
    assert state_of(events).slot_use() == pytest.approx((8 + 6) / (4 * 15 + 10))


def test_a_run_that_found_all_in_the_store_is_not_the_last_one_that_worked() -> None:
    later = [at(100, "started", trials=10, cells=3), at(101, "slots", slots=2, cells=3), at(102, "ended", done=10, failed=0)]
    worked = last_working_run([*LOG, *later])
    assert worked is not None
    assert worked.finished == 2
    assert worked.slot_use() == state_of(LOG).slot_use()
    assert state_of([*LOG, *later]).finished == 0
    assert last_working_run(later) is None


def test_teachers_are_named_while_they_are_made() -> None:
    state = state_of(LOG[:6])
    assert describe(state, active=True, to_go=10)[0] == "teachers being made: rte/big"
    assert state.slot_use() is None


def test_nothing_is_known_of_a_log_without_a_run() -> None:
    assert run_state([]) is None
    assert run_state(LOG[3:9]) is None


def test_the_last_run_is_found_in_the_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.events(last_run=True) == []
    log = EventLog(store)
    for _ in range(2):
        log.happened("started", trials=1, cells=1)
        log.started(make_spec("sst2", "plain"))
        log.ended(TrialRecord(key="k", status="ok", spec=make_spec("sst2", "plain"), objective=0.5))
    assert [event["kind"] for event in store.events(last_run=True)] == ["started", "trial_started", "trial_finished"]
    assert len(store.events()) == 6
    with pytest.raises(ValueError, match="is no kind of event"):
        log.happened("strated")


def test_status_before_there_is_a_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path)
    with store.writing():
        log = EventLog(store)
        log.happened("started", trials=1, cells=1)
        log.happened("teacher_started", task="sst2", teacher="big", digest="t")
        assert main(["status", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "preparing, started" in shown
    assert "teachers being made: sst2/big" in shown
    assert main(["status", str(tmp_path)]) == 0
    assert "no process is running this study now" in capsys.readouterr().out


def test_the_readme_lists_the_kinds() -> None:
    text = (Path(__file__).parents[3] / "harness" / "README.md").read_text("utf-8")
    assert all(f"`{kind}`" in text for kind in KINDS)
