from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import StudyError
from harness.plan.cost import cell_cost, planned_rows
from harness.plan.plan import Plan, final_specs, load_plan, make_plan, trial_spec
from harness.plan.prepared import PreparedTask
from harness.records import TrialSpec
from harness.seeds import derive_seed
from harness.study.schema import Study
from strategies import registry
from tests.conftest import PROJECT
from tests.harness.small_models import MINILM
from tests.harness.tiny import TEACHER, tiny_study

RATE = {"learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}}


def planned(**changes: Any) -> Plan:
    return make_plan(tiny_study(**changes), Path.cwd())


def prepared(plan: Plan) -> dict[str, PreparedTask]:
    teachers = {teacher.name: f"digest-{teacher.name}" for teacher in plan.study.models.teachers}
    return {task.name: PreparedTask("data", {}, {}, "nowhere", {}, "student", teachers) for task in plan.tasks}


def spec(plan: Plan, cell: int = 0, index: int = 0, values: Any = None, **more: Any) -> TrialSpec:
    return trial_spec(plan, plan.cells[cell], index, values or {}, prepared(plan), **more)


def test_cells_are_tasks_by_strategies_by_repeats():
    plan = planned(tasks=["sst2", "rte"], strategies=["ce_only", "wsl"], search={"trials": 1, "repeats": 2})
    assert [cell.id for cell in plan.cells] == [
        f"{task}/{strategy}/{repeat}" for repeat in (0, 1) for task in ("sst2", "rte") for strategy in ("ce_only", "wsl")
    ]
    assert plan.trials == 8


def test_every_cell_that_can_be_searched_has_the_same_budget():
    strategies = ["ce_only", "fixed_alpha", "rw_kd"]
    plan = planned(strategies=strategies, search={"trials": 5, "repeats": 1, "space": RATE})
    assert [cell.trials for cell in plan.cells] == [5, 5, 5]
    assert list(plan.cells[0].space) == ["training.learning_rate"]
    assert list(plan.cells[1].space) == ["training.learning_rate", "kd_weight"]


def test_without_anything_to_vary_there_is_one_trial():
    plan = planned(strategies=["ce_only", "fixed_alpha"], search={"trials": 5, "repeats": 1})
    assert [cell.trials for cell in plan.cells] == [1, 5]
    entry = {"name": "fixed_alpha", "search": {}}
    assert planned(strategies=[entry], search={"trials": 5, "repeats": 1}).trials == 1


def test_a_value_that_the_study_fixes_is_not_searched_unless_it_gives_a_range():
    entry = {"name": "fixed_alpha", "settings": {"kd_weight": 0.3}}
    assert not planned(strategies=[entry], search={"trials": 5}).cells[0].space
    entry["search"] = {"kd_weight": {"type": "float", "low": 0.1, "high": 0.9}}
    cell = planned(strategies=[entry], search={"trials": 5}).cells[0]
    assert cell.default_values == {"kd_weight": 0.3}
    assert cell.trials == 5


def test_a_grid_that_is_smaller_than_the_budget_is_all_that_is_planned():
    entry = {"name": "rw_kd", "search": {"interval": {"type": "choice", "values": [1, 2, 4]}}}
    assert planned(strategies=[entry], search={"trials": 9, "repeats": 1, "sampler": "grid"}).trials == 3  # 1 is the default


def test_trial_0_is_the_study_and_values_take_their_place():
    plan = planned(strategies=["fixed_alpha"], search={"trials": 3, "space": RATE})
    default = spec(plan)
    assert (default.training, default.settings) == (plan.study.training, {"kd_weight": 0.5})
    changed = spec(plan, index=1, values={"training.learning_rate": 2e-3, "kd_weight": 0.1})
    assert (changed.training.learning_rate, changed.settings, changed.index) == (2e-3, {"kd_weight": 0.1}, 1)
    assert changed.training.epochs == plan.study.training.epochs


def test_settings_are_complete_so_that_a_changed_default_makes_a_new_trial():
    assert len(spec(planned(strategies=["rw_kd"])).settings) > 5


def test_a_tasks_own_training_fields_and_resources_are_its_own():
    plan = planned(
        tasks=["sst2", "rte"],
        training_per_task={"rte": {"epochs": 9}},
        resources={"engine": "inline", "cpus_per_worker": 3, "per_task": {"rte": {"workers": 2}}},
    )
    sst2, rte = spec(plan, 0), spec(plan, 1)
    assert (sst2.training.epochs, rte.training.epochs) == (2, 9)
    assert rte.training.batch_size == sst2.training.batch_size
    assert (sst2.resources.workers, sst2.resources.cpus_per_worker) == (1, 3)
    assert (rte.resources.workers, rte.resources.cpus_per_worker) == (2, 3)


def test_a_tasks_own_data_are_its_own():
    plan = planned(
        tasks=["sst2", {"name": "noisy", "rows_of": "sst2"}],
        data_per_task={"noisy": {"label_noise": 0.4, "max_length": 16}},
    )
    sst2, noisy = spec(plan, 0), spec(plan, 1)
    assert (sst2.data.label_noise, noisy.data.label_noise) == (0, 0.4)
    assert sst2.data.generated.flipped > 0
    other = planned(tasks=["sst2"], data_per_task={"sst2": {"generated": {"train_rows": 40}}}).study.data_for("sst2").generated
    assert other == sst2.data.generated.model_copy(update={"train_rows": 40})
    assert noisy.data == sst2.data.model_copy(update={"label_noise": 0.4, "max_length": 16})
    assert (noisy.task.text, noisy.task.metrics) == (sst2.task.text, sst2.task.metrics)
    assert noisy.seeds != sst2.seeds


def test_seeds_pair_strategies_and_trials_but_not_tasks_and_repeats():
    plan = planned(tasks=["sst2", "rte"], strategies=["ce_only", "fixed_alpha"], search={"trials": 3, "repeats": 2})
    seeds = {cell.id: spec(plan, i).seeds for i, cell in enumerate(plan.cells)}
    assert seeds["sst2/ce_only/0"] == seeds["sst2/fixed_alpha/0"] == spec(plan, 1, 2, {"kd_weight": 0.1}).seeds
    groups = [seeds["sst2/ce_only/0"], seeds["sst2/ce_only/1"], seeds["rte/ce_only/0"], seeds["rte/ce_only/1"]]
    numbers = [number for group in groups for number in group.model_dump().values()]
    assert len(set(numbers)) == len(numbers) == 16


@given(st.lists(st.integers() | st.text("aé字\n0"), min_size=1, max_size=4))
def test_a_derived_seed_is_one_that_every_library_takes(parts):
    assert derive_seed(*parts) == derive_seed(*parts)
    assert 0 <= derive_seed(*parts) < 2**31
    assert derive_seed(*parts) != derive_seed(*parts, "more")


def test_the_winner_is_run_with_other_seeds_than_the_search_that_chose_it():
    plan = planned(strategies=["fixed_alpha", "wsl"], search={"trials": 4, "repeats": 3, "repeat": "winner"})
    assert [cell.id for cell in plan.cells] == ["sst2/fixed_alpha/0", "sst2/wsl/0"]
    assert plan.trials == 2 * (4 + 3)
    finals = final_specs(plan, plan.cells[0], prepared(plan), (2, {"kd_weight": 0.2}))
    assert [(f.repeat, f.index, f.purpose, f.settings["kd_weight"]) for f in finals] == [(r, 2, "final", 0.2) for r in range(3)]
    others = final_specs(plan, plan.cells[1], prepared(plan), None)
    assert [f.seeds for f in finals] == [f.seeds for f in others]  # paired
    seeds = [spec(plan).seeds.order, *(f.seeds.order for f in finals)]
    assert len(set(seeds)) == 4
    assert others[0].settings == spec(plan, 1).settings  # nothing won: its default stands for it
    assert any("winner" in warning for warning in plan.warnings)


def test_repeats_of_the_search_need_no_final_runs():
    plan = planned(search={"trials": 2, "repeats": 2})
    assert final_specs(plan, plan.cells[0], prepared(plan), (1, {"kd_weight": 0.2})) == []


def test_missing_references_and_controls_are_said():
    (references,) = planned(strategies=["ce_only", "kd_only", "wsl"]).warnings
    assert references.endswith("incomplete: fixed_alpha, random_weights")
    all_references = ["ce_only", "kd_only", "fixed_alpha", "random_weights"]
    assert planned(strategies=all_references).warnings == ()
    (controls,) = planned(strategies=[*all_references, "rw_kd", "shuffled(rw_kd)"]).warnings
    assert controls.endswith("incomplete: batch_mean(rw_kd)")
    assert planned(strategies=[*all_references, "rw_kd", "shuffled(rw_kd)", "batch_mean(rw_kd)"]).warnings == ()
    assert planned(strategies=[*all_references, "uncertainty"]).warnings == ()  # no weights of samples to shuffle


def test_features_are_wanted_where_any_searched_setting_wants_them(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_strategies", dict(registry._strategies))  # gone again after this test
    (tmp_path / "plugin.py").write_text(
        "from strategies import *\n"
        "class HungrySettings(Settings):\n"
        "    features: bool = False\n"
        "    'Use the pooled vectors.'\n"
        "@register\n"
        "class Hungry(Strategy[HungrySettings]):\n"
        "    name, family, summary, paper = 'hungry_for_features', 'test', 'test', 'none'\n"
        "    sample_wise, normalisation, Settings = False, Normalisation.FREE, HungrySettings\n"
        "    @classmethod\n"
        "    def needs(cls, settings): return Needs(teacher_features=settings.features)\n"
        "    def weights(self, context): return {'ce': 1.0, 'kd': 1.0}\n"
    )
    content = {"plugins": ["plugin.py"], "search": {"trials": 3}}
    entry = {"name": "hungry_for_features", "search": {"features": {"type": "choice", "values": [False, True]}}}
    plan = make_plan(tiny_study(**content, strategies=[entry]), tmp_path)
    assert plan.teacher_outputs == {"teacher": ("features",)}
    assert spec(plan).plugins == [str(tmp_path / "plugin.py")]
    again = make_plan(tiny_study(**content, strategies=["hungry_for_features"]), tmp_path)
    assert again.teacher_outputs == {"teacher": ()}


@pytest.mark.parametrize("name", ["quickstart", "glue_minilm", "glue_full"])
def test_the_studies_that_come_with_it_can_be_planned(name):
    plan = load_plan(PROJECT / "studies" / f"{name}.yaml")
    assert plan.study.name == name
    assert len(plan.tasks) == 7
    assert {"ce_only", "fixed_alpha", "wsl", "rw_kd"} <= {cell.entry.name for cell in plan.cells}


def test_errors_say_where_without_a_file_too():
    with pytest.raises(StudyError) as caught:
        planned(strategies=["fixed_alpha", {"name": "wsl", "settings": {"kd_weight": -1}}])
    assert caught.value.where == ("strategies", 1, "settings", "kd_weight")


def test_a_study_of_its_own_dump_is_the_same_study():
    plan = load_plan(PROJECT / "studies" / "glue_full.yaml")
    assert Study.model_validate(plan.study.model_dump(mode="json")) == plan.study


def test_a_strategy_that_cannot_run_on_a_task_is_refused_before_training(tmp_path: Path) -> None:
    study = tiny_study(strategies=["fixed_alpha", "dkd"], tasks=["mnli", "sst2"])
    with pytest.raises(StudyError, match=r"strategy 'dkd' on task 'sst2'.*two_classes") as refused:
        make_plan(study, tmp_path)
    assert refused.value.where == ("strategies", 1)
    make_plan(tiny_study(strategies=["dkd"], tasks=["mnli"]), tmp_path)
    make_plan(tiny_study(strategies=[{"name": "da_kd", "search": {"mixing": choice(0.3, 0.9)}}]), tmp_path)
    for strategy, said in (
        ({"name": "da_kd", "search": {"mixing": choice(0.5, 0.9)}}, r"reaches mixing = 0\.5: .*is 0"),
        (
            {"name": "rw_kd", "settings": {"look_ahead_rate": 0.05}, "search": {"look_ahead": choice("sgd", "adamw")}},
            "reaches look_ahead = adamw: .*look_ahead_rate",
        ),
    ):
        with pytest.raises(StudyError, match=said) as refused:
            make_plan(tiny_study(strategies=["fixed_alpha", strategy]), tmp_path)
        assert refused.value.where == ("strategies", 1, "search", *strategy["search"])


def choice(*values: object) -> dict[str, object]:
    return {"type": "choice", "values": list(values)}


def test_a_model_without_positions_for_the_longest_sequence_is_refused(tmp_path: Path) -> None:
    models = tiny_study().models.model_dump(exclude_unset=True)
    models["student"]["config"] = {**models["student"]["config"], "max_position_embeddings": 16}
    with pytest.raises(StudyError, match=r"16 positions, but data\.max_length is 32"):
        make_plan(tiny_study(models=models), tmp_path)


@pytest.mark.parametrize(("positions", "refused"), [(33, False), (32, True)])
def test_positions_that_start_after_the_padding_s_are_not_counted(positions: int, refused: bool, tmp_path: Path) -> None:
    teacher = {"config": {**TEACHER, "model_type": "roberta", "max_position_embeddings": positions}}
    models = {"student": {"config": TEACHER}, "teachers": [teacher]}
    if not refused:
        make_plan(tiny_study(models=models), tmp_path)
        return
    with pytest.raises(StudyError, match=r"32 positions, of which 31 can be used.*data\.max_length is 32") as caught:
        make_plan(tiny_study(models=models), tmp_path)
    assert caught.value.where == ("models", "teachers", 0, "config", "max_position_embeddings")


def test_positions_of_a_model_that_is_here_are_read(tmp_path: Path) -> None:
    models = {"student": {"model": MINILM}, "teachers": [{"config": {**TEACHER, "max_position_embeddings": 1024}}]}
    data = {**tiny_study().data.model_dump(), "max_length": 513}
    with pytest.raises(StudyError, match=r"512 positions, but data\.max_length is 513") as caught:
        make_plan(tiny_study(models=models, data=data), tmp_path)
    assert caught.value.where == ("models", "student", "model")


def test_a_teachers_training_may_differ_by_task():
    teacher = {"config": TEACHER, "training": {"epochs": 2, "learning_rate": 1e-3}, "training_per_task": {"rte": {"epochs": 7}}}
    models = {"student": {"config": TEACHER}, "teachers": [teacher]}
    plan = planned(tasks=["sst2", "rte"], models=models)
    trained = {cell.task.name: spec(plan, i).teachers[0] for i, cell in enumerate(plan.cells)}
    assert {task: one.training.epochs for task, one in trained.items()} == {"sst2": 2, "rte": 7}
    assert {one.training.learning_rate for one in trained.values()} == {1e-3}
    for task, field, said in (("rtee", "epochs", "Did you mean 'rte'"), ("rte", "epoch", "Did you mean 'epochs'")):
        wrong = {**teacher, "training_per_task": {task: {field: 7}}}
        with pytest.raises(StudyError, match=said) as caught:
            planned(tasks=["sst2", "rte"], models={**models, "teachers": [wrong]})
        assert caught.value.where[:5] == ("models", "teachers", 0, "training_per_task", task)


@pytest.mark.parametrize(
    ("comparisons", "says"),
    [
        ({"primary": ["wls"]}, "Did you mean 'wsl'"),
        ({"primary": ["fixed_alpha"]}, "plain KD itself"),
        ({"controls": ["wsl"]}, r"run shuffled\(wsl\) or batch_mean\(wsl\)"),
        ({"controls": ["gone"]}, "is not a strategy of this study"),
        ({"equal_rows": ["rw_kd"]}, r"run fit_only\(fixed_alpha\)"),
    ],
)
def test_a_comparison_of_what_is_not_there_is_refused_before_the_run(comparisons: dict[str, Any], says: str) -> None:
    with pytest.raises(StudyError, match=says) as raised:
        planned(strategies=["fixed_alpha", "wsl", "rw_kd"], protocol={"comparisons": comparisons})
    assert raised.value.where[:2] == ("protocol", "comparisons")


def test_a_comparison_on_equal_rows_is_of_a_strategy_with_a_meta_set() -> None:
    strategies = ["fixed_alpha", "wsl", "rw_kd", "fit_only(fixed_alpha)"]
    planned(strategies=strategies, protocol={"comparisons": {"equal_rows": ["rw_kd"]}})
    with pytest.raises(StudyError, match="has no meta set"):
        planned(strategies=strategies, protocol={"comparisons": {"equal_rows": ["wsl"]}})
    with pytest.raises(StudyError, match="plain KD itself is on equal rows: leave out fit_only"):
        planned(strategies=strategies, protocol={"label_budget": "equal_fit"})
    with pytest.raises(StudyError, match="it has a meta set"):
        planned(strategies=["fixed_alpha", "fit_only(rw_kd)"])


def test_what_the_report_takes_from_train_is_in_the_cost_and_in_the_identity() -> None:
    fit_only, reported = (
        planned(strategies=["fit_only(fixed_alpha)"], tasks=["sst2"], data={"source": "hub", "train_rows": 6000, **more})
        for more in ({}, {"report_from_train": 4000})
    )
    rows = [planned_rows(plan.cells[0].task, plan.study.data_for("sst2")) for plan in (fit_only, reported)]
    assert rows[1].report == rows[0].report + 4000
    assert spec(fit_only).key != spec(reported).key
    assert cell_cost(fit_only, fit_only.cells[0]).steps == -(-rows[0].fit // 16) * fit_only.cells[0].training.epochs


def test_what_is_declared_changes_no_trial() -> None:
    strategies = ["fixed_alpha", "wsl", "shuffled(wsl)"]
    declared = {"comparisons": {"primary": ["wsl"], "controls": [], "equal_rows": []}, "margin": 1.0}
    plain, other = planned(strategies=strategies), planned(strategies=strategies, protocol=declared)
    assert [spec(plain, cell).key for cell in range(3)] == [spec(other, cell).key for cell in range(3)]
    assert other.study.model_dump(mode="json")["protocol"]["comparisons"] == declared["comparisons"]


def test_a_model_without_the_layers_or_the_weights_that_are_wanted_is_found_in_the_plan(tmp_path: Path) -> None:
    student = {"config": {**TEACHER, "num_hidden_layers": 2}, "layers": [0, 2]}
    with pytest.raises(StudyError, match=r"has the layers 0 to 1; `layers: \[0, 2\]` must choose") as caught:
        planned(models={"student": student, "teachers": [{"config": TEACHER}]})
    assert caught.value.where == ("models", "student", "layers")
    (tmp_path / "config.json").write_text(json.dumps(TEACHER))
    with pytest.raises(StudyError, match="has no weights") as caught:
        planned(models={"student": {"config": TEACHER}, "teachers": [{"model": str(tmp_path)}]})
    assert caught.value.where == ("models", "teachers", 0, "model")
    planned(models={"student": {"config": TEACHER}, "teachers": [{"model": str(tmp_path / "elsewhere")}]})


@pytest.mark.parametrize(("kind", "near"), [("vit", ""), ("distilbret", "Did you mean 'distilbert'?")])
def test_a_model_that_classifies_no_text_is_found_in_the_plan(kind: str, near: str, tmp_path: Path) -> None:
    said = rf"no sequence classifier of the model_type '{kind}'\..*{re.escape(near)}"
    other = {"config": TEACHER}
    models = {"student": {"config": {**TEACHER, "model_type": kind}}, "teachers": [other]}
    with pytest.raises(StudyError, match=said) as caught:
        planned(models=models)
    assert caught.value.where == ("models", "student", "config", "model_type")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(StudyError, match=said) as caught:
        planned(models={"student": other, "teachers": [{"model": str(tmp_path)}]})
    assert caught.value.where == ("models", "teachers", 0, "model")
    (tmp_path / "plugin.py").write_text("")
    planned(models=models, plugins=[str(tmp_path / "plugin.py")])  # which may bring the family


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"config": {"model_type": "distilbert"}}, "a student of type distilbert cannot be stacked, only bert and roberta"),
        ({"pooling": "mean"}, "a student with `pooling: mean` cannot be stacked"),
    ],
)
def test_students_that_cannot_be_stacked_are_refused(changed: dict[str, object], said: str) -> None:
    student = {"config": {**TEACHER, "model_type": "bert"}, **changed}
    with pytest.raises(StudyError, match=said) as caught:
        planned(models={"student": student, "teachers": [{"config": TEACHER}]}, resources={"stacked": 2})
    assert caught.value.where == ("resources", "stacked")


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"workers": 2}, "stacked: 4 is for trials of one worker, got workers 2"),
        ({"per_task": {"sst2": {"workers": 3}}}, "per_task.sst2: stacked: 4 is for trials of one worker, got workers 3"),
        ({"packing": "measured"}, "packing: measured is for a single trial in each process, got stacked: 4"),
        ({"trainer": "ray_train"}, "trainer: ray_train gives each trial processes of its own, got stacked: 4"),
    ],
)
def test_stacked_trials_are_refused_where_there_are_none(resources: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tiny_study(resources={**resources, "stacked": 4})
