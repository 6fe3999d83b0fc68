from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from harness.commands.cost_text import describe
from harness.commands.memory_probe import Need
from harness.plan.cost import RowCounts, cell_cost, extra_passes, planned_rows, read_sizes, teacher_passes
from harness.plan.plan import load_plan, make_plan, trial_spec
from harness.study.data import DataSpec
from harness.study.schema import TeacherSpec
from harness.study.tasks import GLUE, TaskSpec
from harness.training.trial import train_trial
from strategies.base import Cost
from tests.conftest import PROJECT
from tests.harness.tiny import TEACHER, prepared_plan, tiny_study


def test_the_estimate_is_what_a_real_trial_counts(tmp_path):
    every_step = {"name": "rw_kd", "settings": {"shortest_look_ahead": 0}}  # else only those that are long enough
    study = tiny_study(strategies=["fixed_alpha", every_step, "pcgrad"])
    study = study.model_copy(update={"training": study.training.model_copy(update={"precision": "fp32"})})
    plan, prepared = prepared_plan(study, tmp_path)
    rows = planned_rows(plan.tasks[0], plan.study.data)
    assert rows is not None
    assert {"fit": rows.fit, "meta": rows.meta, "select": rows.select, "validation": rows.report} == prepared["sst2"].rows
    for cell in plan.cells:
        counted = train_trial(trial_spec(plan, cell, 0, {}, prepared), tmp_path).record.cost
        estimate = cell_cost(plan, cell)
        assert estimate is not None
        scoring = cell.training.epochs * rows.select + rows.report  # which a trial does not count as its training's
        assert counted.student_forward + scoring == estimate.student.forward
        assert counted.student_backward == estimate.student.backward


def test_rows_are_capped_and_cut_as_the_study_says():
    assert planned_rows(GLUE["rte"], DataSpec()) == RowCounts(
        fit=2490 - 249 - 249, meta=249, select=249, report=277, headline=277
    )
    assert planned_rows(GLUE["mnli"], DataSpec(train_rows=1000, report_rows=100, select_rows_at_most=50)) == RowCounts(
        fit=850, meta=100, select=50, report=200, headline=100
    )
    assert planned_rows(GLUE["rte"], DataSpec(train_rows=1000, teacher_rows=5000)) == RowCounts(
        800, 100, 100, 277, 277, teacher=1490
    )
    assert planned_rows(GLUE["rte"], DataSpec(train_rows=1000, teacher_rows=1000, report_from_train=400)) == RowCounts(
        800, 100, 100, report=677, headline=400, teacher=1000
    )
    own = TaskSpec(name="own", text=["a"], labels=["x", "y"], files={"train": "t.csv", "validation": "v.csv"})
    assert planned_rows(own, DataSpec()) is None
    read = {"train": 400, "validation": 90, "more": 10}
    assert planned_rows(own, DataSpec(train_rows=100, report_rows=50), read) == RowCounts(80, 10, 10, report=60, headline=50)


def test_a_plan_counts_the_rows_of_tasks_of_your_own():
    plan = load_plan(PROJECT / "studies" / "own_data.yaml")
    counted = {split: len(pd.read_csv(PROJECT / "studies" / f"own_data/{split}.csv")) for split in ("train", "validation")}
    assert read_sizes(plan) == ({"topics": counted}, {})
    said = describe(plan)
    assert f" {counted['train']} " in said
    assert "?" not in said
    named = {"name": "mood", "text": ["text"], "label": "label", "labels": ["a", "b"]}
    elsewhere = {"mood": {"source": "hub", "dataset": "nobody/nothing"}}
    said = describe(make_plan(tiny_study(tasks=["sst2", named], data_per_task=elsewhere), Path.cwd()))
    assert "Not in the sum: mood, as its rows cannot be read now: " in said
    assert "?" in said


def test_the_label_budget_decides_who_trains_on_meta():
    def steps(label_budget: str) -> list[int]:
        study = tiny_study(strategies=["fixed_alpha", "rw_kd"], protocol={"label_budget": label_budget})
        plan = make_plan(study, Path.cwd())
        return [cost.steps for cell in plan.cells if (cost := cell_cost(plan, cell)) is not None]

    assert steps("equal_labels") == [18, 16]
    assert steps("equal_fit") == [16, 16]


def test_every_cost_class_has_its_passes():
    plan = load_plan(PROJECT / "studies" / "glue_full.yaml")
    cell = next(cell for cell in plan.cells if cell.entry.name == "rw_kd")
    seen = set()
    for cost in Cost:
        strategy = type("Declared", (), {"cost": cost})
        forward, backward = extra_passes(_with_strategy(cell, strategy))
        seen.add((forward, backward))
        assert (forward + backward > 0) == (cost not in (Cost.PLAIN, Cost.LIVE_TEACHER))
    assert len(seen) == len(Cost) - 1


def test_a_teacher_is_trained_on_fit_and_asked_about_all_rows():
    teacher = TeacherSpec.model_validate({"config": TEACHER, "training": {"epochs": 2}})
    passes = teacher_passes(teacher, RowCounts(fit=80, meta=10, select=10, report=30, headline=30))
    assert (passes.forward, passes.backward) == (2 * 90 + 130, 160)
    more = teacher_passes(teacher, RowCounts(fit=80, meta=10, select=10, report=30, headline=30, teacher=20))
    assert (more.forward, more.backward) == (2 * 110 + 130, 200)
    assert passes.hours(100) == pytest.approx((310 / 3 + 160 * 2 / 3) / 100 / 3600)


def test_twice_the_rate_is_half_the_hours_and_the_rates_are_called_assumed():
    plan = load_plan(PROJECT / "studies" / "glue_full.yaml")
    slow, fast = (describe(plan, rate, rate) for rate in (100, 200))
    assert _total(slow) == pytest.approx(2 * _total(fast), rel=1e-4)
    for text in ("ASSUMED", "--student-samples-per-second", "252 cells", "4032 trials", "392,702", "look-ahead"):
        assert text in slow


def test_a_plan_says_what_is_known_of_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    assert "probe" not in describe(make_plan(tiny_study(), Path.cwd()))
    plan = make_plan(tiny_study(resources={"packing": "measured"}), Path.cwd())
    assert "Trials of 1 cells are packed by the memory" in describe(plan)
    assert "cache: nothing yet" in describe(plan)
    (tmp_path / "memory").mkdir()
    for gib in (1, 2):
        need = Need(peak_bytes=gib * 2**30, growth_bytes=0, total_bytes=2**40, device="cpu")
        (tmp_path / "memory" / f"{gib}.json").write_text(need.model_dump_json())
    assert "cache: 2 kinds of trials, 1.00 to 2.00 GiB a worker" in describe(plan)


def _with_strategy(cell, strategy):
    return replace(cell, strategy=replace(cell.strategy, strategy=strategy))


def _total(text: str) -> float:
    line = next(line for line in text.splitlines() if " GPU-hours: " in line)
    return float(line.split()[0].replace(",", ""))


def test_a_plan_names_the_engine_that_auto_means() -> None:
    def said(gpus: int, precision: str, strategy: object = "rw_kd") -> str:
        training = {**tiny_study().training.model_dump(exclude_unset=True), "precision": precision}
        resources = {"engine": "inline", "gpus_per_worker": gpus}
        plan = make_plan(tiny_study(strategies=["fixed_alpha", strategy], training=training, resources=resources), Path.cwd())
        return describe(plan)

    assert "look-ahead (fd)" in said(0, "auto")
    assert "look-ahead (jvp)" in said(1, "auto")
    assert "look-ahead (fd)" in said(1, "fp32")
    assert "look-ahead (exact)" in said(0, "auto", {"name": "rw_kd", "settings": {"engine": "exact"}})


def test_a_study_that_can_show_nothing_is_told_so_before_it_runs():
    few, enough = (
        describe(make_plan(tiny_study(tasks=["sst2", "rte"], search={"trials": 1, "repeats": repeats}), Path.cwd()))
        for repeats in (2, 3)
    )
    assert "2 data sets x 2 repeats allow no p below 0.12" in few
    assert "allow no p" not in enough
    assert "Declared: " in enough
