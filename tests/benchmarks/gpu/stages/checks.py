"""The project's gpu tests; every strategy's training with its break and resumption, which take the GPU where there is one."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.gpu.bench import Bench
from tests.benchmarks.gpu.stages import Found

PYTEST = [sys.executable, "-m", "pytest", "-o", "addopts=--strict-markers", "-q", "-p", "no:cacheprovider", "--tb=short"]
FOLDER = "tests/harness/training"
NEEDS_TORCHJD = ["cagrad", "mgda", "pcgrad", "upgrad"]


def run(found: Found, bench: Bench) -> None:
    for name, arguments in selections(bench.small).items():
        began = time.monotonic()
        done = subprocess.run([*PYTEST, *arguments], capture_output=True, text=True, check=False)
        seconds = time.monotonic() - began
        tail = done.stdout.strip().splitlines()[-25:]
        found.put(name, {"code": done.returncode, "seconds": seconds, "tail": tail, "stderr": done.stderr[-800:]})
        last = tail[-1] if tail else done.stderr[-200:]
        found.say(f"pytest {name}: code {done.returncode}, {seconds:.0f} s: {last}")
        for line in [one for one in tail if one.startswith("FAILED")][:10]:
            found.say("  " + line[:220])


def selections(small: bool) -> dict[str, list[str]]:
    """Name -> arguments of pytest. Files are named: to collect others may need Ray."""
    marked = [str(file) for file in sorted(Path("tests").rglob("test_*.py")) if "@pytest.mark.gpu" in file.read_text("utf-8")]
    lacking = [] if importlib.util.find_spec("torchjd") else NEEDS_TORCHJD
    chosen = "resumed and (fixed_alpha or rw_kd)" if small else " and not ".join(["resumed", *lacking])
    found = {"gpu": ["-m", "gpu", *marked], "every_strategy": [f"{FOLDER}/test_every_strategy.py", "-k", chosen]}
    if not small:
        found["trial"] = [f"{FOLDER}/test_{name}.py" for name in ("trial", "out_of_memory", "checkpoint")]
    return found
