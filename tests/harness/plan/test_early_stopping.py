"""Trials that fall behind in their own search end early, are no results, and are remembered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import harness.training.trial as trial_module
from harness.engine import inline
from harness.plan.early_stopping import grace_epochs
from harness.plan.plan import make_plan, trial_spec
from harness.plan.search import CellSearch
from harness.records import EpochRecord, TrialRecord, TrialSpec
from harness.report.caption import caption
from harness.report.leaderboard import make_leaderboard
from harness.report.selection import select
from harness.store.store import Store
from harness.study.schema import EarlyStopping
from harness.training.hooks import StoppedEarly
from harness.training.trial import train_trial
from harness.watching.console import Console
from strategies.space import FloatRange
from tests.harness.engine.stand_in import stand_in_plan, stand_in_study, stand_in_train
from tests.harness.tiny import default_specs, tiny_study

EPOCHS = 9
RULES = [
    EarlyStopping(kind="asha", reduction_factor=3),
    EarlyStopping(kind="asha", grace_epochs=3, reduction_factor=2),
    EarlyStopping(kind="median", startup_trials=2, grace_epochs=2),
]


def play(
    rule: EarlyStopping | None, qualities: list[float], grace: int = 1
) -> tuple[CellSearch, list[int], list[dict[str, Any]]]:
    """Trials whose score after epoch e is quality * e; after which epoch each ended, and what was asked."""
    search = CellSearch({"x": FloatRange(low=0.0, high=1.0)}, {"x": 0.5}, "tpe", 1, len(qualities), rule)
    ends, asked = [], []
    for quality in qualities:
        index, values = search.ask() or (0, {})
        asked.append(values)
        end = next((e for e in range(1, EPOCHS + 1) if search.report(index, e, quality * e, grace, EPOCHS)), EPOCHS)
        ends.append(end)
        search.tell(index, quality * end, stopped=end < EPOCHS)
    return search, ends, asked


qualities = st.lists(st.integers(1, 50).map(lambda q: q / 10), min_size=2, max_size=12)


@pytest.mark.parametrize("rule", RULES)
@given(qualities, st.integers(1, EPOCHS))
def test_what_never_stops(rule: EarlyStopping, qualities: list[float], grace: int) -> None:
    search, ends, _ = play(rule, qualities, grace)
    assert ends[0] == EPOCHS  # the default
    assert min(ends) >= grace
    best = max(qualities)
    assert ends[qualities.index(best)] == EPOCHS  # the first of the best ones
    found = search.best()
    assert found is not None
    assert qualities[found[0]] == best
    assert ends[found[0]] == EPOCHS


@pytest.mark.parametrize("rule", RULES)
def test_the_worst_of_many_stop(rule: EarlyStopping) -> None:
    _, ends, _ = play(rule, [3.0, 4.0, 5.0, 1.0, 0.5, 6.0])
    assert ends[3:5] == [max(1, rule.grace_epochs if rule.kind == "asha" else 1)] * 2
    assert ends[5] == EPOCHS


@pytest.mark.parametrize("rule", RULES)
def test_the_same_scores_stop_the_same_trials(rule: EarlyStopping) -> None:
    scores = [3.0, 4.0, 1.0, 2.0, 5.0, 0.5, 3.5]
    assert play(rule, scores)[1:] == play(rule, scores)[1:]


def test_without_a_rule_nothing_stops_and_the_same_is_asked_as_ever() -> None:
    scores = [3.0, 4.0, 1.0, 2.0, 5.0, 0.5, 3.5]
    _, ends, asked = play(None, scores)
    assert ends == [EPOCHS] * len(scores)
    silent = CellSearch({"x": FloatRange(low=0.0, high=1.0)}, {"x": 0.5}, "tpe", 1, len(scores))
    for values, quality in zip(asked, scores, strict=True):
        index, same = silent.ask() or (0, {})
        assert same == values
        silent.tell(index, quality * EPOCHS)


def test_the_grace_period_lies_beyond_every_warm_up() -> None:
    def grace(strategies: list[Any], label: str, **training: Any) -> int:
        study = tiny_study(
            strategies=strategies,
            training={"epochs": 10, **training},
            search={"trials": 3, "early_stopping": {"kind": "median", "grace_epochs": 2}},
        )
        plan = make_plan(study, Path.cwd())
        _, prepared = stand_in_plan(stand_in_study(["plain"]))
        cell = next(cell for cell in plan.cells if cell.entry.shown == label)
        return grace_epochs(plan, trial_spec(plan, cell, 0, {}, prepared))

    assert grace(["fixed_alpha"], "fixed_alpha") == 2
    assert grace(["fixed_alpha"], "fixed_alpha", warmup_fraction=0.35) == 4
    ramped = {"name": "ctkd", "settings": {"ramp": 0.3}}
    assert grace([ramped], "ctkd") == 3
    assert grace(["fixed_alpha", ramped], "fixed_alpha") == 3  # the same for all
    assert (
        grace(["fixed_alpha", {"name": "shuffled(annealing_kd)", "settings": {"regression_share": 0.75}}], "fixed_alpha") == 8
    )


def study(rule: Any) -> Any:
    return stand_in_study(["plain", "other"], search={"trials": 6, "early_stopping": rule}, training={"epochs": 4})


def run(rule: Any, store: Path, cache: Path) -> dict[tuple[str, int], TrialRecord]:
    cache.mkdir(exist_ok=True)
    (cache / "log").unlink(missing_ok=True)
    plan, prepared = stand_in_plan(study(rule))
    opened = Store(store)
    with opened.writing():
        inline.run_plan(plan, prepared, opened, Console(quiet=True), cache, train=stand_in_train)
    return {(record.spec.label, record.spec.index): record for record in opened.records()}


RULE = {"kind": "asha", "reduction_factor": 2}


def test_a_study_remembers_what_it_stopped(tmp_path: Path) -> None:
    records = run(RULE, tmp_path / "store", tmp_path / "cache")
    stopped = {place: record for place, record in records.items() if record.status == "stopped"}
    assert stopped
    assert len(stopped) < len(records) == 12
    for record in stopped.values():
        assert (record.objective, record.report, record.spec.index > 0) == (None, {}, True)
        assert record.stopped_after_epoch == len(record.epochs) < 4
        assert record.early_stopping == EarlyStopping.model_validate(RULE)
    kinds = [event["kind"] for event in Store(tmp_path / "store").events()]
    assert kinds.count("trial_stopped") == len(stopped)

    # the same command again runs nothing; a study that lost half of its trials deals the same ones again
    assert run(RULE, tmp_path / "store", tmp_path / "cache") == records
    assert not (tmp_path / "cache" / "log").exists()
    for place in list(records)[::2]:
        key = records[place].key
        for file in (tmp_path / "store").rglob(f"{key}*"):
            file.unlink()
    again = run(RULE, tmp_path / "store", tmp_path / "cache")
    assert {place: (r.key, r.status, r.stopped_after_epoch) for place, r in again.items()} == {
        place: (r.key, r.status, r.stopped_after_epoch) for place, r in records.items()
    }


def test_without_the_rule_a_stopped_trial_is_run_to_its_end(tmp_path: Path) -> None:
    stopped = {r.key for r in run(RULE, tmp_path / "store", tmp_path / "cache").values() if r.status == "stopped"}
    wanted = {r.key for r in run(None, tmp_path / "fresh", tmp_path / "cache").values()}
    assert stopped & wanted  # the first trials of a search are drawn alike
    run(None, tmp_path / "store", tmp_path / "cache")
    assert {r.status for r in Store(tmp_path / "store").records() if r.key in wanted} == {"ok"}


def test_a_stopped_trial_cannot_be_a_row(tmp_path: Path) -> None:
    records = run(RULE, tmp_path, tmp_path / "cache")
    rows = select(tmp_path).rows
    assert {row.record.status for row in rows.values() if row.record is not None} == {"ok"}
    assert {(row.state, row.done, row.failed) for row in rows.values()} == {("ok", 6, 0)}
    stopped = sum(record.status == "stopped" for record in records.values())
    (said,) = [sentence for sentence in caption(make_leaderboard(tmp_path, draws=20)) if "early stopping" in sentence]
    assert f"(asha): {stopped} of 12 trials" in said


def test_a_stopped_training_reads_no_report_rows_and_counts_its_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (spec,) = default_specs(tiny_study(), tmp_path)
    whole = train_trial(spec, tmp_path).record

    def never(*_: Any) -> None:
        raise AssertionError("the report rows were read")

    monkeypatch.setattr(trial_module, "load_report_rows", never)

    def after_the_first(record: EpochRecord, write: Any) -> None:
        raise StoppedEarly

    outcome = train_trial(spec, tmp_path, on_epoch=after_the_first)
    record = outcome.record
    assert (record.status, record.objective, record.report, outcome.predictions) == ("stopped", None, {}, None)
    assert record.stopped_after_epoch == 1
    assert 2 * record.cost.student_forward == whole.cost.student_forward
    assert record.cost.train_seconds > 0
    assert record.cost.device == "cpu"
    assert TrialSpec.model_validate(record.spec.model_dump()) == spec


def test_a_restarted_trial_is_not_reported_twice(tmp_path: Path) -> None:
    """It repeats the epoch that its checkpoint lacks."""
    search = CellSearch({"x": FloatRange(low=0.0, high=1.0)}, {"x": 0.5}, "random", 1, 3, RULES[0])
    index, _ = search.ask() or (0, {})
    for epoch in (1, 2, 2, 3):
        assert not search.report(index, epoch, 0.5, 1, 3)
    assert search.tell(index, 0.5)[0][1].intermediate_values == {1: 0.5, 2: 0.5, 3: 0.5}


def test_a_decision_to_stop_stays_where_the_trial_is_lost_before_it_has_ended() -> None:
    search = CellSearch({"x": FloatRange(low=0.0, high=1.0)}, {"x": 0.5}, "random", 1, 2, RULES[0])
    default, _ = search.ask() or (0, {})
    assert not any(search.report(default, epoch, 5.0 * epoch, 1, EPOCHS) for epoch in range(1, EPOCHS + 1))
    search.tell(default, 45.0)
    index, _ = search.ask() or (0, {})
    end = next(epoch for epoch in range(1, EPOCHS) if search.report(index, epoch, 0.1, 1, EPOCHS))
    for score in (0.1, 99.0):  # it repeats the epoch, or goes on from a checkpoint of it
        assert search.report(index, end, score, 1, EPOCHS)
        assert search.report(index, end + 1, score, 1, EPOCHS)
    assert not search.report(index, EPOCHS, 99.0, 1, EPOCHS)
    assert max(search.tell(index, None, stopped=True)[0][1].intermediate_values) == EPOCHS
