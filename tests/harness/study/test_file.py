from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import StudyError
from harness.plan.plan import load_plan
from harness.study.file import load_study, read_study
from harness.study.yaml_lines import parse_value

STUDY = """\
name: example
tasks:
  - sst2
  - rte
strategies:
  - ce_only
  - name: fixed_alpha
    settings:
      kd_weight: 0.25
models:
  student: {config: {model_type: bert}}
  teachers:
    - config: {model_type: bert}
training:
  learning_rate: 1e-3
search:
  trials: 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(StudyError) as caught:
        load_plan(path, overrides)
    return str(caught.value)


def changed(path: Path, old: str, new: str) -> Path:
    assert STUDY.count(old) == 1
    path.write_text(STUDY.replace(old, new))
    return path


def line_of(path: Path, text: str) -> str:
    """Of the last line with the text."""
    lines = path.read_text().splitlines()
    return f"{path}:{max(i for i, line in enumerate(lines, 1) if text in line)}: "


def test_a_good_study_is_read(file):
    study = load_study(file)
    assert study.training.learning_rate == 1e-3  # YAML 1.1 would make it a string
    assert [entry.name for entry in study.strategies] == ["ce_only", "fixed_alpha"]
    assert study.search.repeats == 3


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("search:", "serach:", ["serach: ", "unknown key", "Did you mean 'search'?", "training_per_task"]),
        ("  trials: 3", "  trails: 3", ["search.trails", "Did you mean 'trials'?", "sampler"]),
        ("    settings:", "    setings:", ["strategies.1.setings", "Did you mean 'settings'?"]),
        ("      kd_weight: 0.25", "      kd_wieght: 0.25", ["strategies.1.settings.kd_wieght", "Did you mean 'kd_weight'?"]),
        (
            "      kd_weight: 0.25",
            "      kd_weight: -0.5",
            ["strategies.1.settings.kd_weight", "greater than or equal to 0", "-0.5"],
        ),
        ("      kd_weight: 0.25", "      kd_weight: much", ["strategies.1.settings.kd_weight", "number", "'much'"]),
        ("  trials: 3", "  trials: 0", ["search.trials", "greater than or equal to 1", "got 0"]),
        ("  trials: 3", "  trials: few", ["search.trials", "integer", "'few'"]),
        ("  trials: 3", "  sampler: tpee", ["search.sampler", "'tpee'", "Did you mean 'tpe'?", "tpe, random, grid"]),
        ("  - ce_only", "  - ce_onyl", ["strategies.0.name", "'ce_onyl'", "Did you mean 'ce_only'?"]),
        ("  - ce_only", "  - shuffeld(wsl)", ["strategies.0.name", "Did you mean 'shuffled'?"]),
        ("  - rte", "  - rta", ["tasks.1", "'rta'", "Did you mean 'rte'?", "mnli"]),
        ("  - rte", "  - {name: own, text: [a], lable: b, labels: [x, y]}", ["tasks.1.lable", "Did you mean 'label'?"]),
        ("  - rte", "  - {name: own, text: [a], labels: [x, y]}", ["tasks.1", "files"]),
        ("  - rte", "  - {name: own, text: [a], labels: [x, y], files: {train: t.csv}}", [": tasks.1", "got ['train']"]),
        ("  - rte", "  - sst2", ["tasks.1", "named twice"]),
        ("  - ce_only", "  - fixed_alpha", ["strategies.1", "appears twice", "label"]),
        ("  student: {config: {model_type: bert}}", "  student: {}", ["models.student", "`model` or `config`"]),
        (
            "  trials: 3",
            "  space: {learning_rat: {type: float, low: 1, high: 2}}",
            ["search.space.learning_rat", "Did you mean"],
        ),
        ("  trials: 3", "  space: {epochs: {type: float, low: 1, high: 2}}", ["search.space.epochs", "whole numbers"]),
        ("  trials: 3", "  space: {epochs: {type: int, low: 0, high: 2}}", ["search.space.epochs", "got 0"]),
        ("  trials: 3", "  space: {epochs: {type: int, low: 2, hihg: 3}}", ["hihg", "Did you mean 'high'?"]),
        ("  trials: 3", "  space: {epochs: {type: itn, low: 2, high: 3}}", ["Did you mean 'int'?"]),
    ],
)
def test_an_error_names_file_line_key_and_what_is_allowed(file, old, new, parts):
    changed(file, old, new)
    message = refused(file)
    where = "name: fixed_alpha" if new == "  - fixed_alpha" else new.strip()
    assert any(line.startswith(line_of(file, where)) for line in message.splitlines()), message
    for part in parts:
        assert part in message


def test_every_fault_of_the_schema_is_named_at_once(file):
    changed(file, "  trials: 3", "  trials: 0\n  reapeats: 2")
    assert len(refused(file).splitlines()) == 2


def test_a_missing_key_is_said_where_it_is_missing(file):
    changed(file, "name: example\n", "")
    assert refused(file) == f"{file}:1: the key 'name' is missing"


def test_a_setting_that_only_a_task_has_is_checked_there(file):
    file.write_text(STUDY + "training_per_task:\n  rte:\n    epohcs: 6\n")
    assert refused(file).startswith(f"{file}:20: training_per_task.rte.epohcs: unknown key 'epohcs'. Did you mean 'epochs'?")
    file.write_text(STUDY + "training_per_task:\n  mrpc: {epochs: 6}\n")
    assert "'mrpc' is not a task of this study" in refused(file)
    file.write_text(STUDY + "resources:\n  per_task: {rta: {workers: 2}}\n")
    assert "Did you mean 'rte'?" in refused(file)


def test_data_that_only_a_task_has_are_checked_there(file):
    file.write_text(STUDY + "data_per_task:\n  rte:\n    train_row: 600\n")
    assert refused(file).startswith(
        f"{file}:20: data_per_task.rte.train_row: unknown key 'train_row'. Did you mean 'train_rows'?"
    )
    file.write_text(STUDY + "data_per_task:\n  mrpc: {train_rows: 600}\n")
    assert "'mrpc' is not a task of this study" in refused(file)


def test_rows_of_a_task_that_there_is_not(file):
    changed(file, "  - sst2\n", "  - {name: mine, rows_of: sst}\n")
    assert "unknown task 'sst'. Did you mean 'sst2'?" in refused(file)


def test_a_strategy_is_given_as_many_teachers_as_it_takes(file):
    changed(
        file,
        "    - config: {model_type: bert}",
        "    - {name: a, config: {model_type: bert}}\n    - {name: b, config: {model_type: bert}}",
    )
    assert "takes 1 teacher(s) and is given 2 (a, b)" in refused(file, "strategies=[wsl]")
    assert load_plan(file, ["strategies=[{name: wsl, teachers: [b]}]"]).cells[0].teachers[0].name == "b"
    assert "Did you mean" not in refused(file, "strategies=[{name: wsl, teachers: [zzz]}]")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: 1\nb: {c: 1, c: 2}\n", ":2: the key 'c' is given twice"),
        ("a: 1\na: 2\n", ":2: the key 'a' is given twice"),
        ("a: [1\n", "not valid YAML"),
        ("- a\n", "is a mapping of keys"),
        ("", "found nothing"),
        ("a: !!python/object/apply:os.system ['echo']\n", "not valid YAML"),
        ("a: &x [*x]\n", "stands for itself"),
        (
            "a: &a [1,1]\n" + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 60)}]\n" for a, b in ["ab", "bc", "cd", "de"]),
            "too many",
        ),
        ("\x00", "not valid YAML"),
    ],
)
def test_broken_or_hostile_yaml_is_refused(tmp_path, text, part):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    assert part in refused(path)


def test_no_tag_runs_code(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(f"name: !!python/object/apply:pathlib.Path.touch [{tmp_path}/touched]\n")
    assert "python" in refused(path)
    assert not (tmp_path / "touched").exists()


def test_a_missing_file_names_the_nearest(file):
    message = refused(file.with_name("stduy.yaml"))
    assert "no such study file. Did you mean 'study.yaml'?" in message


@pytest.mark.parametrize("text", ["no", "2026-01-01", "1_000", "0o7", "12:30", "yes"])
def test_what_looks_like_text_is_text(text):
    assert parse_value(text) == text


@given(st.floats(allow_nan=False) | st.integers(-(10**6), 10**6))
def test_numbers_are_read_as_numbers(number):
    assert parse_value(repr(number).replace("inf", ".inf")) == number


def test_overrides_beat_the_file_and_defaults_do_not(file):
    overrides = ["training.epochs=7", "strategies.1.settings.kd_weight=0.75", "search.repeats=1", "search.repeats=2"]
    study = load_study(file, overrides)
    assert study.training.epochs == 7
    assert study.training.learning_rate == 1e-3  # beside it in the file
    assert study.strategies[1].settings == {"kd_weight": 0.75}
    assert (study.search.repeats, study.search.trials) == (2, 3)


def test_an_override_may_name_an_item_and_open_a_bare_name(file):
    study = load_study(
        file, ["strategies.ce_only.label=labels", "strategies.fixed_alpha.settings.kd_weight=0.1", "tasks=[cola]"]
    )
    assert study.strategies[0].shown == "labels"
    assert study.strategies[1].settings == {"kd_weight": 0.1}
    assert study.tasks == ["cola"]
    own = ["tasks=[{name: mail, text: [a], label: sst2, labels: [x, y], files: {train: t, validation: v}}, sst2]"]
    mail, sst2 = load_study(file, [*own, "tasks.mail.text=[b]"]).tasks
    assert (mail.text, sst2) == (["b"], "sst2")  # the column `sst2` is no name


def test_an_override_may_append_to_a_list(file):
    study = load_study(file, ["strategies+=wsl", "strategies+=[rw_kd, {name: wsl, label: again}]", "strategies+=[]"])
    assert [entry.shown for entry in study.strategies] == ["ce_only", "fixed_alpha", "wsl", "rw_kd", "again"]
    assert load_study(file, ["plugins+=mine.py"]).plugins == ["mine.py"]  # the file has no such list
    origins = read_study(file, ["strategies+=wsl"]).origins
    assert origins.place(("strategies", 2)) == "--set strategies+=wsl"
    assert origins.place(("strategies", 1)) == read_study(file).origins.place(("strategies", 1))


def test_an_override_of_one_alias_leaves_the_others(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(
        STUDY.replace("student: {config:", "student: {config: &c").replace("- config: {model_type: bert}", "- config: *c")
    )
    models = load_study(path, ["models.student.config.hidden_size=8"]).models
    assert models.student.config == {"model_type": "bert", "hidden_size": 8}
    assert models.teachers[0].config == {"model_type": "bert"}


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("training.epochs", ["key.path=value"]),
        ("=3", ["key.path=value"]),
        ("training..epochs=3", ["key.path=value"]),
        ("training.epohcs=3", ["training.epohcs", "Did you mean 'epochs'?"]),
        ("trianing.epochs=3", ["trianing: unknown key", "Did you mean 'training'?"]),
        ("training.epochs=[1", ["not valid YAML"]),
        ("training.epochs=many", ["training.epochs", "'many'"]),
        ("training.epochs.x=1", ["training.epochs: ", "integer"]),
        ("name.x=1", ["name is 'example', which has no parts"]),
        ("strategies.7.label=x", ["no item '7'", "0 to 1", "fixed_alpha"]),
        ("strategies.fixed_alfa.label=x", ["Did you mean 'fixed_alpha'?"]),
        ("strategies.fixed_alpha.settings.kd_weight=-1", ["strategies.1.settings.kd_weight", "got -1"]),
        ("strategies=[ce_only, wls]", ["strategies.1.name", "Did you mean 'wsl'?"]),
        ("strategies+=wls", ["strategies.2.name", "Did you mean 'wsl'?"]),
        ("training.learning_rate+=1", ["training.learning_rate is 0.001, not a list"]),
        ("training.epochs+=1", ["training.epochs", "integer"]),  # not in the file
        ("training.epohcs+=1", ["training.epohcs", "Did you mean 'epochs'?"]),
        ("+=wsl", ["key.path=value"]),
    ],
)
def test_a_bad_override_says_that_it_is_the_override(file, override, parts):
    message = refused(file, override)
    assert message.startswith(f"--set {override}: "), message
    for part in parts:
        assert part in message


def test_what_an_override_replaced_has_no_line_any_more(file):
    origins = read_study(file, ["strategies=[{name: wsl, settings: {}}]"]).origins
    assert origins.place(("strategies", 0, "settings")).startswith("--set strategies=")
    assert origins.place(("search", "trials")) == f"{file}:17"
    assert origins.place(("search", "repeats")) == f"{file}:16"


def test_a_broken_plugin_is_the_studys_fault(file, tmp_path):
    (tmp_path / "broken.py").write_text("raise RuntimeError('no')\n")
    file.write_text(STUDY + "plugins:\n  - broken.py\n")
    place = f"{tmp_path / 'broken.py'}:1, in <module>"
    assert refused(file) == f"{file}:19: plugins.0: the plugin cannot be loaded: RuntimeError: no ({place})"
    assert "FileNotFoundError" in refused(file, "plugins=[missing.py]")


@pytest.mark.parametrize("label", ["=1+1", "@SUM(A1)", "a/b", "a\u001b[31m", "two\nlines", ""])
def test_a_label_cannot_break_a_table_or_a_terminal(file, label):
    with pytest.raises(StudyError, match="a label is of printable characters"):
        load_plan(file, [f"strategies.0={json.dumps({'name': 'ce_only', 'label': label})}"])
