from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.commands.cost_text import describe, graph_notes
from harness.commands.manifest import git_state, package_versions, portable
from harness.commands.run import precision_notes
from harness.numeric_code import numeric_code
from harness.plan.plan import make_plan
from harness.report import Report
from harness.report.caption import caption
from harness.report.leaderboard import make_leaderboard
from harness.store.store import Store
from tests.conftest import PROJECT
from tests.harness.tiny import tiny_study


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results" / "tiny")


@pytest.fixture
def _no_report(monkeypatch):
    """The report has tests of its own; drawing it takes longer than these studies."""
    monkeypatch.setattr("harness.report.build_report", lambda path: Report(path, (), (), "the leaderboard"))
    monkeypatch.setattr("harness.report.terminal.printed", lambda board, only=(): board)


@pytest.mark.usefixtures("_no_report")
class TestRun:
    def test_a_study_is_run_once_and_then_found_in_the_store(self, study_file, store, capsys):
        path = study_file(strategies=["ce_only", "fixed_alpha"], search={"trials": 2, "repeats": 1})
        assert main(["run", str(path)]) == 0
        first = capsys.readouterr()
        assert "3 of 3 trials and 2 of 2 cells done" in first.out
        assert "the leaderboard" in first.out
        assert "note: the protocol's references" in first.out
        before = {record.key: record.finished_at for record in store.records()}
        assert len(before) == 3

        assert main(["run", str(path)]) == 0
        assert "3 trials from the store" in capsys.readouterr().out
        assert {record.key: record.finished_at for record in store.records()} == before
        assert store.manifest()["trials"] == sorted(before)
        prepared = ["started", "teacher_started", "teacher_finished", "slots"]
        ran = ["trial_started", "epoch", "epoch", "trial_finished"] * 3
        assert [event["kind"] for event in store.events()] == [*prepared, *ran, "ended", *prepared, "ended"]

    def test_the_manifest_says_what_was_run_and_nothing_of_the_machines_paths(self, study_file, store):
        path = study_file()
        assert main(["run", str(path), "--set", f"description={path}", "--engine", "inline", "--quiet"]) == 0
        manifest = store.manifest()
        assert manifest["study"]["resources"]["engine"] == "inline"
        assert manifest["study_file"] == "study.yaml"
        assert manifest["command"] == [
            "python", "-m", "harness.run", "study.yaml", "--set", "description=study.yaml", "--engine", "inline",
        ]  # fmt: skip
        assert set(manifest["digests"]["sst2"]) == {"fit", "meta", "select", "validation"}
        assert manifest["rows"]["sst2"]["validation"] == 40
        assert manifest["planned_cells"] == [
            {"task": "sst2", "label": "fixed_alpha", "strategy": "fixed_alpha", "repeat": 0, "trials": 1, "final_repeats": 0}
        ]
        assert manifest["packages"]["torch"] == package_versions()["torch"]
        assert manifest["hardware"]["cores"]
        assert manifest["started_at"] <= manifest["finished_at"]
        assert "/" not in {part for text in _texts(manifest) for part in text[:1]}

    def test_quiet_is_the_table_alone(self, study_file, store, capfd):
        assert main(["run", str(study_file()), "--quiet"]) == 0
        shown = capfd.readouterr()
        assert shown.out == f"the leaderboard\n\ntables, plots and the page: {store.path}\n"
        assert shown.err == ""

    def test_the_noise_of_libraries_is_in_a_file(self, study_file, store):
        assert main(["run", str(study_file()), "--quiet"]) == 0
        assert (store.path / "logs" / "libraries.log").is_file()

    def test_a_failing_trial_is_recorded_counted_and_run_again(self, study_file, store, plugin, capsys):
        path = study_file(strategies=["fixed_alpha", "raising"], plugins=[plugin])
        assert main(["run", str(path)]) == 3
        shown = capsys.readouterr()
        assert "failed: sst2/raising/0 trial 0 (bug): ValueError: this strategy always fails" in shown.out
        assert "1 trials failed" in shown.err
        (failed,) = [record for record in store.records() if record.status == "failed"]
        assert failed.error is not None
        assert "weights" in failed.error.traceback
        assert main(["run", str(path)]) == 3
        shown = capsys.readouterr()
        assert "1 trials from the store" in shown.out  # the other one
        assert "failed: sst2/raising/0" in shown.out

    def test_an_interrupt_keeps_what_is_finished_and_exits_with_130(self, study_file, store, plugin, capsys):
        path = study_file(strategies=["fixed_alpha", "interrupting", "wsl"], plugins=[plugin])
        assert main(["run", str(path)]) == 130
        assert "goes on from there" in capsys.readouterr().err
        assert [record.spec.label for record in store.records()] == ["fixed_alpha"]
        manifest = store.manifest()
        assert manifest["finished_at"] is None
        assert "trials" not in manifest
        assert main(["run", str(path), "--set", "strategies=[fixed_alpha, wsl]"]) == 0
        assert "1 trials from the store" in capsys.readouterr().out

    def test_what_the_store_had_of_another_form_of_the_study_is_not_of_this_run(self, study_file, store):
        path = study_file()
        assert main(["run", str(path), "--quiet"]) == 0
        old = store.keys()
        assert main(["run", str(path), "--quiet", "--set", "training.epochs=1"]) == 0
        assert len(store.keys()) == 2
        assert set(store.manifest()["trials"]).isdisjoint(old)

    def test_trials_of_other_code_stop_a_run_before_any_work(self, study_file, store, capsys):
        path = str(study_file(strategies=["ce_only", "fixed_alpha"], search={"trials": 2, "repeats": 1}))
        assert main(["run", path, "--quiet"]) == 0
        of_this = numeric_code()
        _as_if_made_by(store, "0123456789abcdef")
        events = len(store.events())
        capsys.readouterr()
        assert main(["run", path]) == 2
        said = capsys.readouterr().err
        assert "3 trials of this study were made by another form of the harness's code" in said
        assert "first: sst2/ce_only/0/0, sst2/fixed_alpha/0/0" in said
        assert "--rerun" in said
        assert len(store.events()) == events

        assert main(["run", path, "--mixed-code", "--set", "strategies+=wsl"]) == 0
        assert "3 trials from the store" in capsys.readouterr().out
        assert any("MIXED harness code" in sentence for sentence in caption(make_leaderboard(store.path)))

        assert main(["run", path, "--rerun"]) == 0
        assert "from the store" not in capsys.readouterr().out
        assert {store.get(key).spec.harness_code for key in store.manifest()["trials"]} == {of_this}
        assert not any("MIXED" in sentence for sentence in caption(make_leaderboard(store.path)))

    def test_other_code_of_another_form_of_the_study_stops_nothing(self, study_file, store):
        path = str(study_file())
        assert main(["run", path, "--quiet"]) == 0
        _as_if_made_by(store, "0123456789abcdef")
        assert main(["run", path, "--quiet", "--set", "training.epochs=1"]) == 0

    def test_trials_from_before_their_code_was_recorded_count_and_are_said(self, study_file, store, capsys):
        path = str(study_file())
        assert main(["run", path, "--quiet"]) == 0
        _as_if_made_by(store, "")
        capsys.readouterr()
        assert main(["run", path]) == 0
        shown = capsys.readouterr().out
        assert "note: 1 trials of the store do not say which form of the harness made them" in shown
        assert "1 trials from the store" in shown

    def test_a_damaged_record_is_said_and_run_again(self, study_file, store, capsys):
        path = study_file()
        assert main(["run", str(path), "--quiet"]) == 0
        (record,) = (store.path / "trials").rglob("*.json")
        record.write_bytes(record.read_bytes()[:-40])
        assert main(["run", str(path), "--quiet"]) == 0
        assert (
            f"damaged, and run again if it belongs to this study: trials/{record.parent.name}/{record.name}"
            in capsys.readouterr().err
        )
        assert "damaged" in [event["kind"] for event in store.events()]
        assert store.get(record.stem) is not None
        assert main(["run", str(path), "--quiet"]) == 0
        assert capsys.readouterr().err == ""

    def test_a_grid_smaller_than_the_budget_is_a_finished_study(self, study_file, store):
        entry = {"name": "fixed_alpha", "search": {"kd_weight": {"type": "choice", "values": [0.5, 0.9]}}}
        path = study_file(strategies=[entry], search={"trials": 5, "repeats": 1, "sampler": "grid"})
        assert main(["run", str(path), "--quiet"]) == 0
        assert sorted(record.spec.settings["kd_weight"] for record in store.records()) == [0.5, 0.9]

    def test_the_winner_of_a_search_is_run_with_every_repeats_seeds(self, study_file, store):
        path = study_file(search={"trials": 2, "repeats": 2, "repeat": "winner"})
        assert main(["run", str(path), "--quiet"]) == 0
        finals = [record for record in store.records() if record.spec.purpose == "final"]
        best = max((r for r in store.records() if r.spec.purpose == "search"), key=lambda r: (r.objective, -r.spec.index))
        assert [record.spec.repeat for record in finals] == [0, 1]
        assert {record.spec.settings["kd_weight"] for record in finals} == {best.spec.settings["kd_weight"]}

    def test_status_counts_what_is_there(self, study_file, store, plugin, capsys):
        path = study_file(strategies=["fixed_alpha", "raising"], plugins=[plugin], search={"trials": 2, "repeats": 1})
        assert main(["run", str(path), "--quiet"]) == 3
        capsys.readouterr()
        assert main(["status", str(store.path)]) == 0
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert ["sst2", "3", "3", "1"] in rows
        (record,) = [r for r in store.records() if r.spec.label == "fixed_alpha" and r.spec.index == 0]
        (store.path / "trials" / record.key[:2] / f"{record.key}.json").write_text("half a rec")
        assert main(["status", str(store.path)]) == 0
        shown = capsys.readouterr().out
        assert ["sst2", "2", "3", "1"] in [line.split() for line in shown.splitlines()]
        assert "damaged: trials/" in shown


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["run", "STUDY", "--set", "training.epohcs=1"], "Did you mean 'epochs'?"),
        (["run", "STUDY", "--set", "strategies=[{name: fixed_alpha, settings: {kd_weight: -1}}]"], "got -1"),
        (["run", "STUDY", "--set", "data.source=directory", "--set", "data.path=nowhere"], "nowhere"),
        (["run", "STUDY", "--set", "models.student={model: package:no_such_package/model}"], "no_such_package"),
        (["plan", "missing.yaml"], "no such study file"),
        (["prefetch", "STUDY", "--set", "data.source=hub"], "nyu-mll/glue"),
        (["status", "results/nowhere"], "does not exist"),
        (["report", "."], "no result folder"),
        (["doctor", "results/nowhere"], "does not exist"),
        (["list", "strategies", "wls"], "Did you mean 'wsl'?"),
        (["check", "wls"], "Did you mean 'wsl'?"),
    ],
)
def test_the_users_errors_are_a_paragraph_and_exit_with_2(study_file, arguments, part, capsys):
    path = str(study_file())
    assert main([path if word == "STUDY" else word for word in arguments]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert part in shown.err
    assert "Traceback" not in shown.err
    assert "\n\n" not in shown.err


def test_one_store_has_one_writer(study_file, store, capsys):
    with store.writing():
        assert main(["run", str(study_file())]) == 2
    assert "another process is writing" in capsys.readouterr().err


def test_a_dry_run_is_the_plan(study_file, store, capsys):
    path = str(study_file())
    assert main(["run", path, "--dry-run"]) == 0
    dry = capsys.readouterr().out
    assert main(["plan", path]) == 0
    assert capsys.readouterr().out == dry
    assert not store.path.exists()


def test_paths_in_a_manifest_say_nothing_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert portable(str(tmp_path / "a" / "b.yaml")) == "a/b.yaml"
    assert portable(str(tmp_path.parent / "glue")) == "../glue"
    assert portable("/somewhere/else/b.yaml") == "b.yaml"
    assert portable("studies/a.yaml") == "studies/a.yaml"


def test_the_commit_is_that_of_the_harness_itself(tmp_path, monkeypatch):
    if not (PROJECT / ".git").exists():
        pytest.skip("no checkout")
    monkeypatch.chdir(tmp_path)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout.strip()
    state = git_state()
    assert state is not None
    assert state["commit"] == commit


def _as_if_made_by(store: Store, code: str) -> None:
    for record in store.records():
        spec = record.spec.model_copy(update={"harness_code": code})
        store.write(record.model_copy(update={"spec": spec}), store.predictions(record.key))


def _texts(content: object) -> list[str]:
    if isinstance(content, dict):
        return [text for value in content.values() for text in _texts(value)]
    if isinstance(content, list):
        return [text for value in content for text in _texts(value)]
    return [content] if isinstance(content, str) else []


@pytest.mark.usefixtures("_no_report")
def test_the_manifest_is_json(study_file, store):
    assert main(["run", str(study_file()), "--quiet"]) == 0
    assert json.loads((store.path / "manifest.json").read_text())["study"]["name"] == "tiny"


@pytest.mark.parametrize(
    ("flags", "precision", "notes"), [("avx2", "bf16", 1), ("avx2", "fp32", 0), ("amx_bf16", "bf16", 0), ("", "bf16", 0)]
)
def test_bf16_on_a_processor_that_has_no_instructions_for_it_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str, precision: str, notes: int
) -> None:
    monkeypatch.setattr("harness.training.device._of_the_processor", lambda name: flags)
    study = tiny_study(training={**tiny_study().training.model_dump(), "precision": precision})
    assert len(precision_notes(make_plan(study, tmp_path))) == notes


def test_where_graphs_are_without_effect_is_said_before_anything_runs(tmp_path: Path) -> None:
    def notes(**resources: object) -> list[str]:
        study = tiny_study(
            strategies=["wsl", "rw_kd"], training={"compile": "graphs"}, resources={"engine": "ray", **resources}
        )
        return [
            note.removeprefix("training.compile: graphs is without effect where a trial ")
            for note in graph_notes(make_plan(study, tmp_path))
        ]

    assert notes() == ["runs on a CPU: rw_kd, wsl"]
    assert notes(gpus_per_worker=0.5) == ["looks ahead: rw_kd"]
    assert notes(gpus_per_worker=1, workers=2) == ["has several workers: rw_kd, wsl"]
    assert graph_notes(make_plan(tiny_study(), tmp_path)) == []
    planned = describe(make_plan(tiny_study(training={"compile": "graphs"}, resources={"gpus_per_worker": 0}), tmp_path))
    assert planned.splitlines()[-1] == (
        "note: training.compile: graphs is without effect where a trial runs on a CPU: fixed_alpha"
    )
