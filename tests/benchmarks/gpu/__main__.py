"""Everything that only a GPU can say about the harness, in at most ten minutes; STAGE.json files under --out.

A stage is a process of its own with a limit: one that crashes or hangs costs only itself, and one that is cut off leaves what
it had. Without CUDA, or with --small, sizes are tiny: that shows that it runs, and its figures mean nothing. Needs neither Ray
nor datasets, but for the stage of Ray's; the studies need Optuna.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.gpu.stages import ALONE, LIMITS, TOGETHER, Found

RESERVED = 60
"""Seconds that the stages at the end are sure of."""


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/gpu"))
    parser.add_argument("--seconds", type=float, default=560, help="for all of it")
    parser.add_argument("--small", action="store_true", help="tiny sizes")
    parser.add_argument("--only", default=",".join(LIMITS), help="some stages, with commas between")
    parser.add_argument("--glue", type=Path, default=Path("glue"), help="Parquet files for the studies; else generated text")
    parser.add_argument("--patience", type=float, default=1.0, help="multiplies each stage's limit: for a slow machine")
    parser.add_argument("--stage", choices=LIMITS, help="this stage alone, in this process")
    arguments = parser.parse_args(given)
    stages = arguments.only.split(",")
    if unknown := sorted(set(stages) - set(LIMITS)):
        parser.error(f"there is no stage {', '.join(unknown)}; there are {', '.join(LIMITS)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.stage:
        return run_stage(arguments.stage, arguments.out, arguments.glue, arguments.small)
    run_stages(stages, arguments.out, arguments.glue, arguments.small, arguments.seconds, arguments.patience)
    return 0


def run_stages(
    stages: Sequence[str], out: Path, glue: Path, small: bool = False, seconds: float = 560, patience: float = 1.0
) -> None:
    """Each in a process of its own; STAGE.json says how it ended (`ended`: 0, another exit status, or why it was cut off)."""
    out.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + seconds
    together = [stage for stage in TOGETHER if stage in stages]
    reserved = RESERVED if together else 0
    for stage in [stage for stage in ALONE if stage in stages]:
        left = until - reserved - time.monotonic()
        if left < 15:
            _write(out, stage, "no time left", 0.0, {"lines": []})
        else:
            _Stage(stage, out, glue, small).end(min(LIMITS[stage] * patience, left))
    running = [_Stage(stage, out, glue, small) for stage in together]
    for one in running:
        one.end(min(LIMITS[one.name] * patience, until - 3 - time.monotonic()))


def run_stage(stage: str, out: Path, glue: Path, small: bool) -> int:
    """In this process. Returns 1 where it raised, which is kept under `error`."""
    warnings.filterwarnings("ignore")
    os.environ.update({"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "RAY_USAGE_STATS_ENABLED": "0"})
    found = Found(out / f"{stage}.json")
    try:
        from tests.benchmarks.gpu.bench import Bench

        importlib.import_module(f"tests.benchmarks.gpu.stages.{stage}").run(found, Bench(small, glue))
    except Exception:
        found.put("error", traceback.format_exc())
        print(found.content["error"])
        return 1
    return 0


class _Stage:
    """A stage's process."""

    def __init__(self, name: str, out: Path, glue: Path, small: bool) -> None:
        self.name, self._out, self._began = name, out, time.monotonic()
        (out / f"{name}.json").unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.benchmarks.gpu", "--stage", name, "--out", str(out), "--glue", str(glue)]
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  it ends in another method
        self._process = subprocess.Popen(
            command + (["--small"] if small else []), stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True
        )

    def end(self, seconds: float) -> None:
        """Wait for it, so many seconds at most, and write what came of it."""
        ended: int | str
        try:
            ended = self._process.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # its own children too, and nobody else's
            self._process.wait()
            ended = "time was up"
        self._log.seek(0)
        log = self._log.read()
        self._log.close()
        file = self._out / f"{self.name}.json"
        content = json.loads(file.read_text("utf-8")) if file.exists() else {"lines": []}
        if ended != 0:
            content["log"] = log[-3000:]
        _write(self._out, self.name, ended, time.monotonic() - self._began, content)
        print(f"{self.name:16} {ended!s:12} {time.monotonic() - self._began:6.1f} s", flush=True)
        for line in content["lines"] + (log.strip().splitlines()[-6:] if ended != 0 else []):
            print(f"    {line}", flush=True)


def _write(out: Path, stage: str, ended: int | str, seconds: float, content: dict[str, Any]) -> None:
    content = {"stage": stage, "ended": ended, "seconds": round(seconds, 1), **content}
    (out / f"{stage}.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
