"""Every stage's code and commands hold, shown on a CPU at sizes that mean nothing."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.benchmarks.gpu import rank_audit
from tests.benchmarks.gpu.__main__ import main, run_stages
from tests.benchmarks.gpu.bench import Bench, flops_a_sample
from tests.benchmarks.gpu.stages import LIMITS, Found, checks, packed, ranks, study

HERE = Path(__file__).parent
IN_PROCESS = {
    "environment": "versions",
    "fidelity": "engines",
    "steps": "steps",
    "waits": "lines",
    "shapes": "shapes",
    "throughput": "throughput",
    "graphs": "graphs",
    "teacher_outputs": "teacher_outputs",
}
"""Stages that start no process -> what they find."""


@pytest.fixture
def bench() -> Bench:
    return Bench(small=True, glue=Path("none"))


def test_stages_are_the_files_and_the_readme_s() -> None:
    modules = {file.stem for file in (HERE / "stages").glob("*.py")} - {"__init__"}
    assert modules == set(LIMITS)
    rows = [line for line in (HERE / "README.md").read_text("utf-8").splitlines() if line.startswith("| `")]
    assert [name for row in rows for name in row.split("|")[1].replace("`", "").replace(",", " ").split()] == list(LIMITS)


@pytest.mark.parametrize("stage", IN_PROCESS)
def test_a_stage_finds_something(stage: str, tmp_path: Path, bench: Bench) -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    found = Found(tmp_path / "found.json")
    importlib.import_module(f"tests.benchmarks.gpu.stages.{stage}").run(found, bench)
    written = json.loads(found.file.read_text("utf-8"))
    assert written["lines"]
    assert written[IN_PROCESS[stage]]
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


@pytest.mark.parametrize("program", [packed.WORKER, ranks.TWO_RANKS, rank_audit.CODE])
def test_programs_of_other_processes_import_what_there_is(program: str) -> None:
    """`-m slow` runs them."""
    compile(program, "program", "exec")
    imports = [line for line in program.splitlines() if line.startswith(("import ", "from "))]
    assert imports
    for line in imports:
        exec(line, {})


def test_the_checks_select_tests() -> None:
    """Here by name alone; `-m slow` runs them."""
    for small in (True, False):
        for arguments in checks.selections(small).values():
            files = [Path(argument) for argument in arguments if argument.endswith(".py")]
            assert files
            assert all(file.is_file() for file in files)
    source = Path(checks.FOLDER, "test_every_strategy.py").read_text("utf-8")
    assert "resumed" in source


def test_the_study_is_valid(tmp_path: Path, bench: Bench) -> None:
    for glue in (Path("none"), tmp_path):
        bench.glue = glue
        file = tmp_path / "study.yaml"
        file.write_text(json.dumps(study.study_content(bench, tmp_path / "results")), "utf-8")
        command = [sys.executable, "-m", "harness", "plan", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_stage_that_fails_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setitem(LIMITS, "environment", 0.001)
    run_stages(["environment"], tmp_path, Path("none"), small=True)
    run_stages(["waits"], tmp_path, Path("none"), small=True)
    cut_off, whole = (json.loads((tmp_path / f"{name}.json").read_text("utf-8")) for name in ("environment", "waits"))
    assert cut_off["ended"] == "time was up"
    assert whole["ended"] == 0
    assert whole["lines"]


def test_an_unknown_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--only", "steps,speed"])
    assert "no stage speed; there are environment, fidelity" in capsys.readouterr().err


def test_flops_of_a_dense_encoder() -> None:
    """Six a parameter and token, and less than that for the last layer, which computes one token above its attention."""
    config = {"hidden_size": 768, "num_hidden_layers": 6, "intermediate_size": 3072}
    whole = 6 * 6 * 7.09e6 * 64
    assert 5 / 6 * whole < flops_a_sample(config, 64) < whole


@pytest.mark.slow
def test_build_packs_a_checkout_that_runs(tmp_path: Path) -> None:
    """What is committed, without wheels; unpacked elsewhere, its first stage runs there with this interpreter's packages."""
    bundle, programs, work = (tmp_path / name for name in ("bundle", "programs", "work"))
    programs.mkdir()
    (programs / "python3").symlink_to(sys.executable)
    env = {**os.environ, "TARGET": str(bundle), "CODE_ONLY": "1", "PYTHON": sys.executable}
    subprocess.run(["bash", str(HERE / "build.sh")], env=env, check=True, capture_output=True)
    env = {**os.environ, "OUT": str(tmp_path / "out"), "WORK": str(work), "CHECK_ONLY": "1", "PYTHONPATH": ""}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    done = subprocess.run(["bash", str(bundle / "run.sh")], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "environment.json").read_text("utf-8"))["ended"] == 0, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_stages(tmp_path: Path) -> None:
    run_stages(list(LIMITS), tmp_path, Path("none"), small=True, seconds=1700, patience=8)
    found = {name: json.loads((tmp_path / f"{name}.json").read_text("utf-8")) for name in LIMITS}
    assert {name: one["ended"] for name, one in found.items()} == dict.fromkeys(LIMITS, 0)
    for name in ("tune", "train"):
        assert found["ray_study"][name]["code"] == 0
    assert found["study"]["study"]["code"] == 0
    codes = {name: one["code"] for name, one in found["checks"].items() if isinstance(one, dict)}
    assert codes["every_strategy"] == 0
    assert found["packed"]["packed"][-1]["K"] == 2
    assert all("trained a step, loss" in said for said in found["ranks"]["two_ranks_gloo"]["said"])
