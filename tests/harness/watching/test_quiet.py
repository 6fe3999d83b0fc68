from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings

import pytest

from harness.watching.quiet import quiet_libraries


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ.copy())


def test_logging_and_warnings_go_to_the_file_until_the_end(tmp_path, capfd):
    log = tmp_path / "logs" / "libraries.log"
    before = logging.getLogger().handlers[:]
    with quiet_libraries(log), warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.getLogger("some.library").warning("a warning of a library")
        warnings.warn("a python warning", stacklevel=1)
    assert "a warning of a library" in log.read_text()
    assert "a python warning" in log.read_text()
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger().handlers == before


def test_usage_reports_are_off_and_a_users_choice_stays(tmp_path, monkeypatch):
    for name in ("RAY_USAGE_STATS_ENABLED", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "debug")
    with quiet_libraries(tmp_path / "log"):
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
        assert os.environ["TRANSFORMERS_VERBOSITY"] == "debug"


def test_it_imports_nothing_heavy():
    code = "import sys, harness.watching.quiet; print({'torch', 'ray', 'transformers', 'datasets'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
