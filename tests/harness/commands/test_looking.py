"""The verbs that show things: list, doctor, check, prefetch."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from harness.__main__ import VERBS, main
from harness.commands.memory_probe import Need
from harness.loss_terms.registry import PLAIN, registered_terms
from harness.plan.plan import load_plan
from strategies import resolve, strategy_names, wrapper_names
from tests.harness.report.stores import Planted, build_store


def shown(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(list(arguments)) == code
    return capsys.readouterr().out


def test_all_strategies_are_listed_and_each_can_be_seen_in_full(capsys):
    listed = shown(capsys, "list", "strategies")
    for name in [*strategy_names(), *wrapper_names()]:
        assert name in listed
    for name in strategy_names():
        one = shown(capsys, "list", "strategies", name)
        for setting in resolve(name).strategy.Settings.model_fields:
            assert f"  {setting} = " in one
        assert "paper: " in one
    assert max(map(len, listed.splitlines())) < 180


def test_the_fields_of_a_study_are_listed_as_a_user_writes_them(capsys):
    listed = shown(capsys, "list", "study")
    for line in ("learning_rate: number = 5e-05", "tasks: list of (text or TaskSpec)", 'sampler: tpe, random, grid = "tpe"'):
        assert line in listed
    for python in ("Optional", "Annotated", "Literal", "None", "True", "typing"):
        assert python not in listed
    lines = listed.splitlines()
    for line, following in pairwise(lines):
        if line.endswith(" = {...}"):  # a section: its fields follow
            assert following.startswith("    " + line[: len(line) - len(line.lstrip())]), line


def test_loss_terms_are_listed(capsys):
    listed = shown(capsys, "list", "terms")
    for name in (*registered_terms(), *PLAIN):
        assert name in listed


def test_a_name_that_nothing_is_done_with_is_refused(capsys):
    assert main(["list", "terms", "kd"]) == 2
    assert "got 'kd' after `list terms`" in capsys.readouterr().err


def test_tasks_are_listed(capsys):
    listed = shown(capsys, "list", "tasks")
    assert "392,702" in listed
    assert "matthews" in listed


def test_doctor_says_what_a_report_of_a_problem_needs(capsys, tmp_path, monkeypatch):
    cache = tmp_path / "own-cache"
    (cache / "teachers").mkdir(parents=True)
    (cache / "teachers" / "file").write_bytes(bytes(3 * 2**20))
    (cache / "memory").mkdir()
    need = Need(peak_bytes=3 * 2**29, growth_bytes=2**20, total_bytes=2**33, device="cpu", of="bert, batch 32")
    (cache / "memory" / "digest.json").write_text(need.model_dump_json())
    monkeypatch.setenv("HARNESS_CACHE", str(cache))
    monkeypatch.setattr("harness.training.nvidia_smi.how_gpus_are_shared", lambda: "in turns")
    rows = shown(capsys, "doctor").splitlines()
    assert any(row.split() == ["GPUs", "are", "shared", "in", "turns"] for row in rows)
    assert any(row.split()[:1] == ["torch"] for row in rows)
    assert any(row.split()[:1] == ["gpus"] for row in rows)
    assert any(row.split()[:3] == ["teachers", "3.0", "MiB"] for row in rows)
    assert any(row.split() == ["bert,", "batch", "32", "1.50", "GiB", "on", "cpu"] for row in rows)
    assert any(row.startswith("free disk, cache") and "GiB" in row for row in rows)


def test_check_passes_for_a_good_strategy_and_fails_for_one_that_is_not(capsys, plugin, tmp_path):
    assert "checks passed" in shown(capsys, "check", "ce_only")
    failing = tmp_path / "failing.py"
    failing.write_text((tmp_path / plugin).read_text().partition("@register\nclass Interrupting")[0])
    assert "FAIL" in shown(capsys, "check", str(failing), code=1)


def test_prefetch_reads_every_task_and_model(capsys, study_file):
    text = shown(capsys, "prefetch", str(study_file(tasks=["sst2", "mnli"])))
    assert "sst2: train 160, validation 40 rows" in text
    assert "validation_mismatched 40" in text
    assert "student: random weights from its config (digest " in text


def test_help_lists_every_verb_and_the_exit_codes(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for verb in VERBS:
        assert verb in text
    assert "130 interrupted" in text


@pytest.mark.parametrize(
    "arguments",
    [[], ["rnu"], ["run"], ["plan", "x.yaml", "--student-samples-per-second", "0"], ["plan", "x.yaml", "--pilot", "1"]],
)
def test_arguments_that_make_no_sense_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m harness" in capsys.readouterr().err


def test_two_strategies_and_two_folders_are_compared(capsys, tmp_path):
    """And what cannot be compared ends with exit code 2 and says why."""
    for name in ("one", "two"):
        build_store(tmp_path / name, Planted(("sst2",), ("fixed_alpha", "rw_kd"), repeats=4, trials=1, rows=200))
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    assert "Verdict: " in shown(capsys, "compare", "rw_kd", "fixed_alpha", "--results", one, "--task", "sst2")
    assert "rw_kd (one) against rw_kd (two)" in shown(capsys, "compare", one, two)
    assert main(["compare", "rw_kdd", "fixed_alpha", "--results", one]) == 2
    assert "Did you mean 'rw_kd'?" in capsys.readouterr().err
    assert main(["compare", one, str(tmp_path / "three")]) == 2
    assert "no such result folder" in capsys.readouterr().err


def test_a_plan_says_what_it_takes_to_see_a_difference(capsys, tmp_path):
    """Twice the difference takes about a quarter of the repeats; a store that knows nothing of the tasks is no help."""
    build_store(
        tmp_path / "earlier", Planted(("sst2", "qnli"), ("ce_only", "fixed_alpha", "wsl"), repeats=4, trials=1, rows=400)
    )
    study = ["plan", "studies/planted_truth.yaml", "--set", "data.generated.report_rows=100000"]
    said = {points: shown(capsys, *study, "--detect", points, "--from", str(tmp_path / "earlier")) for points in ("1", "2")}
    one, two = (int(re.search(r"points need (\d+) repeats", text)[1]) for text in said.values())
    assert 1.5 < one / two < 6
    assert "Dearest per bit of certainty: " in said["1"]
    more = ["--set", "tasks+={name: flipped, rows_of: sst2}", "--detect", "1", "--from", str(tmp_path / "earlier")]
    flipped = shown(capsys, *study, *more)
    rows = {line.split()[0]: line.split()[1:-1] for line in flipped.splitlines() if line.startswith(("sst2", "flipped"))}
    assert rows["flipped"] == rows["sst2"]
    assert "flipped by sst2" in flipped
    build_store(tmp_path / "other", Planted(("cola",), ("fixed_alpha", "wsl"), repeats=2, trials=1, rows=40))
    assert main([*study, "--detect", "1", "--from", str(tmp_path / "other")]) == 2
    assert "no earlier store tells" in capsys.readouterr().err
    of_pilot = shlex.split(shown(capsys, *study, "--detect", "1", "--pilot", "3").splitlines()[-1].partition(" run ")[2])
    pilot = load_plan(of_pilot[0], [word for word in of_pilot[1:] if word != "--set"]).study
    assert (pilot.search.repeats, pilot.data.generated.report_rows) == (3, 100000)
    assert main([*study, "--detect", "1", "--from", str(tmp_path / "nowhere")]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    assert main([*study, "--pilot", "3"]) == 2
    assert "go with --detect" in capsys.readouterr().err


def test_a_plugin_that_lies_in_a_result_folder_is_not_run_by_verbs_that_read_it(capsys, tmp_path):
    """`export` and `reproduce` train a row again, and need `--trust-plugin` for that: test_export.py."""
    one, two, both = (str(tmp_path / name) for name in ("one", "two", "both"))
    was_run = tmp_path / "was-run"
    for folder in (one, two):
        store = build_store(Path(folder), Planted(("sst2",), ("fixed_alpha", "of_a_store"), trials=1, rows=50))
        plugin = store.path / "plugin.py"
        plugin.write_text(f"open({str(was_run)!r}, 'w').close()\n")
        manifest = store.manifest()
        store.write_manifest({**manifest, "study": {**manifest["study"], "plugins": [str(plugin)]}})
        for record in store.records():
            spec = record.spec.model_copy(update={"plugins": [str(plugin)]})
            store.write(record.model_copy(update={"spec": spec}), store.predictions(record.key))
    reading = [
        ["compare", "of_a_store", "fixed_alpha", "--results", one],
        ["compare", one, two],
        ["status", one],
        ["report", one],
        ["pack", one],
        ["unpack", one],
        ["merge", one, two, "--into", both],
        ["gc", one],
    ]
    for arguments in reading:
        shown(capsys, *arguments)
        assert not was_run.exists(), arguments
    of_a_study = {"run", "plan", "teacher-outputs", "prefetch", "check"}
    assert set(VERBS) == {verb for verb, *_ in reading} | of_a_study | {"list", "doctor", "reproduce", "export"}
