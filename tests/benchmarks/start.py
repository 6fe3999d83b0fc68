"""Commands that only look, from the shell's prompt to the shell's prompt."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from tests.benchmarks.outcome import Options, Outcome

COMMANDS = (["--help"], ["plan", "studies/quickstart.yaml"], ["list", "strategies"], ["list", "tasks"])


def run(options: Options) -> Outcome:
    rows = []
    for arguments in COMMANDS:
        seconds = []
        for _ in range(7):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-m", "harness", *arguments], check=True, capture_output=True)
            seconds.append(time.perf_counter() - started)
        rows.append(
            {"command": " ".join(arguments), "median s": round(statistics.median(seconds), 3), "best s": round(min(seconds), 3)}
        )
    note = "That neither torch nor Ray is imported is tested: tests/harness/commands/test_start.py."
    return Outcome("commands that only look", rows, [note])
