from __future__ import annotations

import io
import logging
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from rich.console import Console as RichConsole

from harness.plan.plan import Plan, final_specs, make_plan, trial_spec
from harness.plan.prepared import PreparedTask
from harness.records import ErrorRecord, TrialRecord
from harness.training.failures import failed_record
from harness.watching import console as console_module
from harness.watching.console import Console
from harness.watching.quiet import quiet_libraries
from tests.harness.tiny import tiny_study


def plan_of(**search: object) -> Plan:
    study = tiny_study(tasks=["sst2", "rte"], strategies=["fixed_alpha"], search={"trials": 2, "repeats": 1, **search})
    return make_plan(study, Path.cwd())


def records(plan: Plan) -> list[TrialRecord]:
    """All trials of the plan, better and better."""
    prepared = {task.name: PreparedTask("d", {}, {}, "", {}, "s", {"teacher": "t"}) for task in plan.tasks}
    specs = [
        trial_spec(plan, cell, i, {"kd_weight": 0.1} if i else {}, prepared) for cell in plan.cells for i in range(cell.trials)
    ]
    specs += [spec for cell in plan.cells for spec in final_specs(plan, cell, prepared, None)]
    return [TrialRecord(key=spec.key, status="ok", spec=spec, objective=i / 10) for i, spec in enumerate(specs)]


def watched(terminal: bool, quiet: bool = False) -> tuple[Console, io.StringIO]:
    output = io.StringIO()
    rich = RichConsole(file=output, force_terminal=terminal, width=100, color_system=None, highlight=False)
    return Console(quiet=quiet, rich=rich), output


def test_plain_lines_where_the_output_is_no_terminal(monkeypatch):
    monkeypatch.setattr(console_module, "PLAIN_EVERY_SECONDS", -1.0)
    plan = plan_of()
    console, output = watched(terminal=False)
    console.start(plan)
    for record in records(plan):
        console.trial_started(f"{record.spec.task.name}/fixed_alpha/0")
        console.trial_finished(record, from_store=False)
    console.close()
    lines = output.getvalue().splitlines()
    assert lines[0] == "running 4 trials in 2 cells"
    assert lines[1].startswith("1 of 4 trials and 0 of 2 cells done")
    assert "left" in lines[1]
    assert lines[-1].startswith("4 of 4 trials and 2 of 2 cells done")
    assert "left" not in lines[-1]
    assert "\x1b" not in output.getvalue()
    assert console.progress.complete


def test_lines_are_rare_so_that_a_long_log_stays_short():
    plan = plan_of()
    console, output = watched(terminal=False)
    console.start(plan)
    for record in records(plan):
        console.trial_finished(record, from_store=True)
    console.close()
    assert len(output.getvalue().splitlines()) == 2
    assert "4 trials from the store" in output.getvalue()


def test_a_live_view_in_a_terminal():
    plan = plan_of()
    console, output = watched(terminal=True)
    console.start(plan)
    console.trial_started("sst2/fixed_alpha/0")
    first, second = records(plan)[:2]
    console.trial_finished(first, from_store=False)
    console.trial_finished(second, from_store=False)
    assert console._live is not None
    console._live.refresh()
    console.close()
    console.close()
    text = output.getvalue()
    assert "best on select" in text
    assert "0.100  fixed_alpha" in text
    assert "2/2" in text
    assert "0/2" in text


def test_failures_are_said_even_when_quiet_and_are_no_markup():
    plan = plan_of()
    for quiet in (False, True):
        console, output = watched(terminal=False, quiet=quiet)
        console.start(plan)
        error = ErrorRecord(kind="bug", type="ValueError", message="[bold]no[/]\nsecond line")
        console.trial_finished(failed_record(records(plan)[0].spec, error, {}), from_store=False)
        console.close()
        assert "failed: sst2/fixed_alpha/0 trial 0 (bug): ValueError: [bold]no[/]" in output.getvalue()
        assert "second line" not in output.getvalue()
        assert not console.progress.complete
        assert (len(output.getvalue().splitlines()) == 1) == quiet


def test_a_quiet_console_says_nothing_of_what_goes_well():
    plan = plan_of()
    console, output = watched(terminal=True, quiet=True)
    console.stage("reading")
    console.note("note")
    console.start(plan)
    for record in records(plan):
        console.trial_finished(record, from_store=False)
    console.close()
    assert output.getvalue() == ""


def test_final_runs_belong_to_the_cell_of_their_search():
    plan = plan_of(repeats=3, repeat="winner")
    console, _ = watched(terminal=False, quiet=True)
    console.start(plan)
    done = []
    for record in records(plan):
        console.trial_finished(record, from_store=False)
        done.append(console.progress.cells_done)
    assert done[:6] == [0] * 6
    assert done[-1] == console.progress.cells == 2
    assert len(set(console.progress.keys)) == plan.trials == 10


def test_it_goes_to_no_other_process():
    with pytest.raises(TypeError, match="belongs to the process"):
        pickle.dumps(Console())


@pytest.mark.parametrize("terminal", [True, False])
def test_teachers_that_train_have_a_line_each(monkeypatch, terminal):
    console, output = watched(terminal)
    progress = {"epoch": 1, "epochs": 3, "loss": 0.6931, "seconds_left": 30.0}
    worth = [console.teacher_trains("teacher big of rte", {**progress, "epoch": epoch}) for epoch in (1, 2)]
    assert worth == [True, False]  # one every 15 s
    console.teacher_trains("teacher small of rte", progress)
    if console._live is not None:
        console._live.refresh()
    console.teacher_ended("teacher big of rte")
    console.teacher_ended("teacher small of rte")
    console.note("later")
    said = output.getvalue()
    assert "teacher small of rte: epoch 1 of 3, loss 0.693, about 30 s of training left" in said
    assert ("epoch 2 of 3" in said) == terminal
    assert said.endswith("later\n")
    monkeypatch.setattr(console_module, "PLAIN_EVERY_SECONDS", -1.0)
    quiet, silence = watched(terminal, quiet=True)
    assert quiet.teacher_trains("teacher big of rte", progress)
    assert not silence.getvalue()


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ.copy())


def test_logging_and_warnings_go_to_the_file_until_the_end(tmp_path, capfd):
    log = tmp_path / "logs" / "libraries.log"
    before = logging.getLogger().handlers[:]
    told: list[str] = []
    with quiet_libraries(log, told.append), warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.getLogger("some.library").warning("a warning of a library")
        warnings.warn("a python warning", stacklevel=1)
        for _ in range(2):
            logging.getLogger("harness").warning("no %s here", "GPU")
        logging.getLogger("harness").info("a detail")
    assert "a warning of a library" in log.read_text()
    assert "a python warning" in log.read_text()
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger().handlers == before
    assert told == ["note: no GPU here"]  # what the harness itself warns of, once
    assert log.read_text().count("no GPU here") == 2
    logging.getLogger("harness").warning("later")
    assert len(told) == 1


def test_usage_reports_are_off_and_a_users_choice_stays(tmp_path, monkeypatch):
    for name in ("RAY_USAGE_STATS_ENABLED", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "debug")
    with quiet_libraries(tmp_path / "log", print):
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
        assert os.environ["TRANSFORMERS_VERBOSITY"] == "debug"


def test_it_imports_nothing_heavy():
    code = "import sys, harness.watching.quiet; print({'torch', 'ray', 'transformers', 'datasets'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
