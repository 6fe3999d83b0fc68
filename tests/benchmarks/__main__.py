"""Run benchmarks. Comparisons are made within one run, in turns, and say how busy the machine was."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.measure import load
from tests.benchmarks.outcome import Options, Outcome, machine, summary, write

BENCHMARKS = {
    "start": "commands that only look",
    "data_path": "making batches, and teacher outputs from the cache or computed, beside a step",
    "step": "a step on a CPU: what makes it cheaper, rw_kd's against a plain one, TextBrewer and torchdistill",
    "look_ahead_steps": "influences by each look-ahead against real AdamW steps along a run, and their cost",
    "packed": "several students on one core: processes, and stacked in one process",
    "study": "60 trials under Ray against the same trainings back to back",
    "several_workers": "what a trial of two workers takes beyond its training",
    "growth": "step, study and report against their sizes; with plots",
    "gpu": "what only a GPU can say, where there is one (tests/benchmarks/gpu/README.md)",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help="; ".join(f"{name}: {what}" for name, what in BENCHMARKS.items()))
    parser.add_argument("--baselines", type=Path, help="folder with what tests/benchmarks/requirements.txt lists")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    parser.add_argument("--small", action="store_true", help="tiny settings: shows that it runs, its figures mean nothing")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"there is no benchmark {sorted(unknown)}; there are {', '.join(BENCHMARKS)}")
    names = arguments.names or list(BENCHMARKS)
    if len(names) == 1:
        one(names[0], arguments.baselines, arguments.out, arguments.small)
        return 0
    options = ["--out", str(arguments.out), *(["--small"] if arguments.small else [])]
    options += [] if arguments.baselines is None else ["--baselines", str(arguments.baselines)]
    # a process each: none inherits another's threads, memory or imports
    failed = [name for name in names if subprocess.run([sys.executable, "-m", "tests.benchmarks", name, *options]).returncode]
    if failed:
        print(f"These did not finish: {', '.join(failed)}.", file=sys.stderr)  # noqa: T201
    return 1 if failed else 0


def one(name: str, baselines: Path | None, out: Path, small: bool) -> None:
    """Run a benchmark in this process; write it and the summary of all that are there, after every part of it."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["MPLBACKEND"] = "Agg"
    with tempfile.TemporaryDirectory() as cache:
        before, started = load(), time.perf_counter()
        found = importlib.import_module(f"tests.benchmarks.{name}").run(Options(baselines, out, Path(cache), small))
        for outcome in [found] if isinstance(found, Outcome) else found:
            about = {"load_before": before, "load_after": load(), "seconds": round(time.perf_counter() - started), **machine()}
            shown = write(outcome, name, out, about | {"small": small})
            summary(out)
    print(shown, end="\n\n", flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
