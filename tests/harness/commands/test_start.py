"""The verbs that only look start at once: no heavy import."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from tests.conftest import PROJECT

HEAVY = {"torch", "ray", "transformers", "datasets", "optuna", "sklearn", "scipy", "matplotlib", "pandas", "numpy"}
PROGRAM = f"""
import sys
from harness.__main__ import main
try:
    code = main(sys.argv[1:])
except SystemExit as exit:
    code = exit.code
print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["plan", "studies/glue_full.yaml"],
        ["run", "studies/quickstart.yaml", "--dry-run", "--set", "training.compile=graphs"],
        ["list", "strategies"],
        ["list", "strategies", "shuffled(rw_kd)"],
        ["list", "tasks"],
        ["list", "study"],
        ["status", "tests/harness/fixtures/store_v1"],
        ["plan", "studies/quickstart.yaml", "--set", "serch.trials=3"],
        ["plan", "studies/planted_truth.yaml", "--set", "models.student.config.model_type=vit"],
    ],
)
def test_it_starts_at_once_and_imports_nothing_heavy(arguments, of_pydantic):
    before = _processor_seconds()
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], cwd=PROJECT, capture_output=True, text=True)
    seconds = _processor_seconds() - before
    refused = ("serch.trials=3", "models.student.config.model_type=vit", "tests/harness/fixtures/store_v1")  # has no manifest
    expected = 2 if arguments[-1] in refused else 0
    assert done.returncode == expected, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"
    assert seconds < 8 * of_pydantic  # up to 5 times, on machines on which that is 0.06 s and on those on which it is 0.2 s


@pytest.fixture(scope="module")
def of_pydantic() -> float:
    """What a Python process takes that imports only what every command needs, on this machine, now."""
    before = _processor_seconds()
    for _ in range(3):
        subprocess.run([sys.executable, "-c", "import pydantic, yaml; from pydantic import BaseModel"], check=True)
    return (_processor_seconds() - before) / 3


def _processor_seconds() -> float:
    """Of this process's children: unlike the time of day, hardly a matter of what else the machine does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_reader_that_has_had_enough_is_no_error():
    command = f"{sys.executable} -m harness list study | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("module", ["harness.run", "harness.report"])
def test_the_short_forms_are_the_verbs(module):
    done = subprocess.run([sys.executable, "-m", module, "nowhere"], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: nowhere")
    assert "Traceback" not in done.stderr
