"""Run benchmarks. Comparisons are made within one run, in turns, and say how busy the machine was."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.measure import load
from tests.benchmarks.outcome import Options, machine, write

BENCHMARKS = {
    "rw_kd_step": "a step of rw_kd against a plain step, double backward with torch.func, and higher",
    "distillers": "an epoch of distillation against TextBrewer and torchdistill",
    "study": "60 trials under Ray against the same trainings back to back",
    "packed": "several students on one core: processes, and stacked in one program",
    "teacher_outputs": "reading cached teacher outputs against computing them in the step",
    "data_path": "making batches against having them in memory",
    "start": "commands that only look",
    "growth": "step, study and report against their sizes; with plots",
    "gpu": "throughput and utilisation of a GPU, where there is one",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help="; ".join(f"{name}: {what}" for name, what in BENCHMARKS.items()))
    parser.add_argument("--baselines", type=Path, help="folder with what tests/benchmarks/requirements.txt lists")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"there is no benchmark {sorted(unknown)}; there are {', '.join(BENCHMARKS)}")
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["MPLBACKEND"] = "Agg"
    with tempfile.TemporaryDirectory() as cache:
        options = Options(arguments.baselines, arguments.out, Path(cache))
        for name in arguments.names or BENCHMARKS:
            before, started = load(), time.perf_counter()
            outcome = importlib.import_module(f"tests.benchmarks.{name}").run(options)
            about = {"load_before": before, "load_after": load(), "seconds": round(time.perf_counter() - started), **machine()}
            print(write(outcome, name, arguments.out, about), end="\n\n", flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
