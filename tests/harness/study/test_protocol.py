"""Each rule of studies/PROTOCOL.md, and an attempt to break it."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from harness.data.roles import load_report_rows
from harness.data.rows import FitRows, MetaRows, ReportRows, SelectRows, TrainingRows
from harness.plan.plan import make_plan, trial_spec
from harness.plan.prepared import PreparedTask
from harness.plan.search import CellSearch
from harness.records import TrialRecord
from harness.report.leaderboard import make_leaderboard
from harness.store.store import Store
from harness.study.protocol import protocol_warnings
from harness.study.schema import PROTOCOL_VERSION, Study
from harness.training.trial import train_trial
from strategies import registry
from strategies.base import Context, RoleView, Setup
from tests.conftest import PROJECT
from tests.harness.report.stores import Planted, build_store
from tests.harness.tiny import default_specs, tiny_study


@dataclasses.dataclass
class _Spy:
    path: Path

    @property
    def seen(self) -> list[Any]:
        """What the strategy was handed: its Setup and its last Context."""
        return registry.resolve("spying").strategy.weights.__globals__["SEEN"]  # type: ignore[no-any-return]


def _reachable(roots: list[Any]) -> Iterator[Any]:
    """Everything that can be got at from `roots` by attributes, elements, closures and bound methods."""
    left, seen = list(roots), set()
    while left:
        thing = left.pop()
        if id(thing) in seen or isinstance(thing, (str, bytes, int, float, type, types.ModuleType)):
            continue
        seen.add(id(thing))
        yield thing
        if isinstance(thing, dict):
            left += thing.values()
        elif isinstance(thing, (list, tuple, set, frozenset)):
            left += thing
        elif isinstance(thing, types.FunctionType):
            left += [cell.cell_contents for cell in thing.__closure__ or ()]
        elif isinstance(thing, types.MethodType):
            left += [thing.__self__, thing.__func__]
        else:
            left += vars(thing).values() if hasattr(thing, "__dict__") else ()


def rows(kind: type[Any]) -> Any:
    return kind(ids=np.arange(2), texts=(["a", "b"],), labels=np.array([0, 1]))


def test_the_document_is_of_this_version() -> None:
    text = (PROJECT / "studies" / "PROTOCOL.md").read_text()
    assert text.startswith(f"# Protocol {PROTOCOL_VERSION}\n")
    assert {f"## {n}." in text for n in range(1, 11)} == {True}


def test_rule_1_training_cannot_be_handed_report_rows() -> None:
    assert {field.name for field in dataclasses.fields(TrainingRows)} == {"fit", "meta", "select"}
    fields: dict[str, Any] = {"fit": rows(FitRows), "meta": rows(MetaRows), "select": rows(SelectRows)}
    with pytest.raises(TypeError):
        TrainingRows(**fields, report=rows(ReportRows))
    assert not any(issubclass(ReportRows, kind) for kind in (FitRows, MetaRows, SelectRows))


def test_rule_1_a_strategy_that_asks_for_report_data_cannot_get_it() -> None:
    """All that a strategy is ever given, by name: nothing selects, nothing reports, nothing tells flipped labels."""
    for seen in (Setup, Context, RoleView):
        names = {field.name for field in dataclasses.fields(seen)}
        assert not {name for name in names if any(word in name for word in ("report", "select", "flip", "validation"))}
    roles = {f.name for f in dataclasses.fields(Setup) if f.type in ("RoleView", "RoleView | None")}
    assert roles == {"fit", "meta"}


def test_rule_1_no_report_row_is_within_reach_of_a_strategy(tmp_path: Path, spy: _Spy) -> None:
    """Not by name, not by attribute, not through the closures and bound methods of what it is handed."""
    (spec,) = default_specs(tiny_study(strategies=["spying"], plugins=[str(spy.path)]), tmp_path)
    train_trial(spec, tmp_path)
    seen = list(_reachable(spy.seen))
    report_ids = {tuple(rows.ids) for rows in load_report_rows(tmp_path, spec.data_digest).values()}
    held = [thing for thing in seen if isinstance(thing, ReportRows) or getattr(thing, "shape", ()) == (40,)]
    assert any(isinstance(thing, torch.Tensor) and thing.shape == (16, 2) for thing in seen)  # the walk does arrive
    assert not [thing for thing in held if isinstance(thing, ReportRows) or tuple(np.asarray(thing)) in report_ids]


def test_rule_2_there_are_two_label_budgets() -> None:
    with pytest.raises(ValidationError, match="equal_labels"):
        tiny_study(protocol={"label_budget": "more_for_me"})


@pytest.mark.parametrize(
    ("where", "key"),
    [
        ("search", "pruner"),
        ("strategies", "early_stopping"),
        ("search", "asha"),
        ("resources", "pruner"),
        ("protocol", "prune"),
    ],
)
def test_rule_3_pruning_across_strategies_is_refused(where: str, key: str) -> None:
    changed: Any = [{"name": "fixed_alpha", key: {"kind": "median"}}] if where == "strategies" else {key: "median"}
    with pytest.raises(ValidationError, match=key):
        tiny_study(**{where: changed})


def test_rule_3_early_stopping_works_within_one_cell_alone() -> None:
    """What a search stops does not depend on how far ahead another one is, and a table says that there was any."""
    rule = {"kind": "median", "startup_trials": 1}
    study = tiny_study(strategies=["ce_only", "fixed_alpha"], search={"trials": 4, "repeats": 1, "early_stopping": rule})
    plan = make_plan(study, Path.cwd())
    weak = next(cell for cell in plan.cells if cell.strategy.name == "fixed_alpha")

    def stops(*, beside_a_strong_one: bool) -> list[bool]:
        search, strong = CellSearch.for_cell(plan, weak), CellSearch.for_cell(plan, weak)
        found = []
        for score in (0.5, 0.6, 0.4, 0.55):
            index, _ = search.ask() or (0, {})
            if beside_a_strong_one and (other := strong.ask()) is not None:
                strong.report(other[0], 1, 0.99, 1, 2)
                strong.tell(other[0], 0.99)
            found.append(search.report(index, 1, score, 1, 2))
            search.tell(index, score, stopped=found[-1])
        return found

    assert stops(beside_a_strong_one=True) == stops(beside_a_strong_one=False) == [False, False, True, False]
    assert any("not for a leaderboard" in warning for warning in plan.warnings)
    assert tiny_study().search.early_stopping is None


def test_rule_3_no_strategy_gets_more_trials_or_ranges_of_its_own_for_a_task() -> None:
    for key in ("trials", "repeats", "per_task", "seed"):
        with pytest.raises(ValidationError, match=key):
            tiny_study(strategies=[{"name": "fixed_alpha", key: 50}])


def _specs(study: Study) -> list[Any]:
    plan = make_plan(study, Path.cwd())
    teachers = {teacher.name: "digest" for teacher in study.models.teachers}
    prepared = {task.name: PreparedTask("data", {}, {}, "nowhere", {}, "student", teachers) for task in plan.tasks}
    return [trial_spec(plan, cell, 0, {}, prepared) for cell in plan.cells]


def test_rule_4_strategies_are_paired_by_seeds() -> None:
    specs = _specs(tiny_study(strategies=["ce_only", "fixed_alpha", "wsl"], search={"trials": 1, "repeats": 2}))
    for repeat in (0, 1):
        assert len({spec.seeds.model_dump_json() for spec in specs if spec.repeat == repeat}) == 1
    assert len({spec.seeds.model_dump_json() for spec in specs}) == 2


def test_rule_5_missing_references_and_controls_are_named() -> None:
    said = " ".join(protocol_warnings(tiny_study(strategies=["fixed_alpha", "rw_kd"])))
    for name in ("ce_only", "kd_only", "random_weights", "shuffled(rw_kd)", "batch_mean(rw_kd)"):
        assert name in said


def test_rule_6_failures_cannot_be_dropped(tmp_path: Path) -> None:
    """A strategy that fails where it is weak must not gain by it."""
    names = ("ce_only", "fixed_alpha", "wsl")
    honest, failing = tmp_path / "honest", tmp_path / "failing"
    build_store(honest, Planted(("sst2", "rte"), names, repeats=1, trials=1, rows=100))
    build_store(failing, Planted(("sst2", "rte"), names, repeats=1, trials=1, rows=100, failed=frozenset({("rte", "wsl", 0)})))
    boards = [make_leaderboard(path, draws=50) for path in (honest, failing)]
    means = [board.mean_score.value[names.index("wsl")] for board in boards]
    assert np.isfinite(means).all()
    assert means[1] < means[0]


def test_rule_6_a_table_with_holes_withholds_averages_and_ranks(tmp_path: Path) -> None:
    names = ("ce_only", "fixed_alpha", "wsl")
    build_store(tmp_path, Planted(("sst2", "rte"), names, repeats=1, trials=1, rows=50, missing=frozenset({("rte", "wsl", 0)})))
    board = make_leaderboard(tmp_path, draws=50)
    assert np.isnan(board.mean_score.value[names.index("wsl")])
    assert board.ranking is None


def test_rule_7_a_trial_without_its_predictions_cannot_be_stored(tmp_path: Path) -> None:
    (spec,) = default_specs(tiny_study(), tmp_path)
    outcome = train_trial(spec, tmp_path)
    store = Store(tmp_path / "store")
    for incomplete in (None, outcome.predictions.iloc[:-1]):
        with pytest.raises(ValueError, match="each row's prediction"):
            store.write(outcome.record, incomplete)
    assert store.keys() == []


def test_rule_7_a_score_that_is_not_that_of_its_predictions_is_not_compared(tmp_path: Path) -> None:
    build_store(tmp_path, Planted(("sst2",), ("ce_only", "fixed_alpha", "wsl"), repeats=1, trials=1, rows=100))
    store = Store(tmp_path)
    record = next(record for record in store.records() if record.spec.label == "wsl")
    record.report["validation"].metrics["accuracy"] += 0.05
    store.write(record, store.predictions(record.key))
    board = make_leaderboard(tmp_path, draws=50)
    assert np.isnan(board.p[board.selection.labels.index("wsl"), 0])
    assert any("not that of its predictions" in warning for warning in board.selection.warnings)


def test_rule_9_what_a_strategy_costs_is_counted_not_declared(tmp_path: Path, spy: _Spy) -> None:
    """It says that it costs nothing, and replays the whole batch in every step."""
    plain, spying = default_specs(tiny_study(strategies=["fixed_alpha", "spying"], plugins=[str(spy.path)]), tmp_path)
    costs = [train_trial(spec, tmp_path).record.cost for spec in (plain, spying)]
    assert costs[1].student_forward == 2 * costs[0].student_forward
    assert costs[1].student_backward == costs[0].student_backward


def test_rule_10_the_log_holds_the_weights_that_were_applied(tmp_path: Path, spy: _Spy) -> None:
    """The strategy applies 0.25 and writes 9 over its tensor after every step."""
    (spec,) = default_specs(tiny_study(strategies=["spying"], plugins=[str(spy.path)]), tmp_path)
    for epoch in train_trial(spec, tmp_path).record.epochs:
        assert set(epoch.weights["ce"].quantiles) == {0.25}
        assert epoch.train_loss == pytest.approx(0.25 * epoch.terms["ce"] + 0.75 * epoch.terms["kd"], rel=1e-4)


SPY = """
from strategies import Needs, Normalisation, Strategy, register

SEEN = []

@register
class Spying(Strategy):
    name, family, summary, paper = "spying", "test", "test", "none"
    sample_wise, normalisation = False, Normalisation.CONVEX

    @classmethod
    def needs(cls, settings):
        return Needs(replay=True)

    def weights(self, context):
        SEEN[:] = [self.setup, context]
        context.replay(context.ids)
        self.weight = context.terms["ce"].new_full(context.terms["ce"].shape, 0.25)
        return {"ce": self.weight, "kd": 0.75}

    def after_step(self, context):
        self.weight.fill_(9.0)
"""


@pytest.fixture
def spy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Spy:
    """A plugin whose strategy tries things; it is gone again after the test."""
    registry.strategy_names()  # the built-in ones are there before the copy
    monkeypatch.setattr(registry, "_strategies", dict(registry._strategies))
    path = tmp_path / "spy.py"
    path.write_text(SPY)
    return _Spy(path)


def test_the_version_is_in_every_row() -> None:
    field = TrialRecord.model_fields["spec"].annotation
    assert field is not None
    assert field.model_fields["protocol_version"].is_required()
    assert {spec.protocol_version for spec in _specs(tiny_study())} == {PROTOCOL_VERSION}
    with pytest.raises(ValidationError):
        tiny_study(protocol={"version": "0.9"})
