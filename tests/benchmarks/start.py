"""Commands that only look, from the shell's prompt to the shell's prompt."""

from __future__ import annotations

import statistics
import subprocess
import sys

from tests.benchmarks.measure import in_turns
from tests.benchmarks.outcome import Options, Outcome, Target
from tests.conftest import PROJECT

COMMANDS = ("--help", "plan studies/quickstart.yaml", "list strategies", "list tasks", "list study")
AT_MOST = 0.5


def run(options: Options) -> Outcome:
    def command(arguments: str) -> object:
        return subprocess.run(
            [sys.executable, "-m", "harness", *arguments.split()], check=True, capture_output=True, cwd=PROJECT
        )

    work = {name: lambda _, name=name: command(name) for name in COMMANDS}
    found = in_turns(work, rounds=1 if options.small else 9)
    rows = [
        {"command": name, "median s": round(statistics.median(taken), 3), "best s": round(min(taken), 3)}
        for name, taken in found.items()
    ]
    note = "That neither torch nor Ray is imported is tested: tests/harness/commands/test_start.py."
    targets = [Target(f"{row['command']}, median s", row["median s"], at_most=AT_MOST) for row in rows]
    return Outcome("commands that only look", rows, [note], targets)
