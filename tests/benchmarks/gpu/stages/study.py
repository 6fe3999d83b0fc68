"""A small study from its file to its report, with the inline engine."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.store.store import Store
from harness.training.nvidia_smi import query
from tests.benchmarks.gpu.bench import Bench
from tests.benchmarks.gpu.stages import Found

NAME = "gpu_study"


def run(found: Found, bench: Bench) -> None:
    run_study(found, bench, "study", "inline", {"resources.gpus_per_worker": int(bench.cuda)})


def study_content(bench: Bench, results: Path) -> dict[str, Any]:
    """Six strategies on real GLUE where the folder is there, else on generated text."""
    glue = bench.glue.is_dir()
    shape = {name: value for name, value in bench.config("minilm3").items() if name != "vocab_size"}
    model = shape | {"max_position_embeddings": 128}
    training = {"epochs": 1 if bench.small else 2, "learning_rate": 3.0e-4}
    generated = {"train_rows": 160 if bench.small else 4000, "report_rows": 100}
    return {
        "name": NAME,
        "tasks": ["sst2", "mrpc"] if glue else ["sst2"],
        "strategies": ["ce_only", "kd_only", "fixed_alpha", "random_weights", "rw_kd", "wsl"],
        "results": str(results),
        "data": {
            "source": "directory",
            "path": str(bench.glue.resolve()),
            "train_rows": 400 if bench.small else 4000,
            "report_rows": 100 if bench.small else 800,
            "max_length": 64,
        }
        if glue
        else {"source": "generated", "max_length": 32, "generated": generated},
        "models": {
            "teachers": [{"config": model, "training": training}],
            "student": {"config": {**model, "num_hidden_layers": 1}},
        },
        "training": {**training, "batch_size": 32},
        "search": {"trials": 1, "repeats": 1 if bench.small else 2},
    }


def run_study(found: Found, bench: Bench, key: str, engine: str, changes: Mapping[str, Any]) -> None:
    """`changes`: of the study, as `--set` takes them. What came of it is put under `key`."""
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study.yaml"
        study.write_text(json.dumps(study_content(bench, Path(folder) / "results")), "utf-8")  # YAML reads JSON
        command = [sys.executable, "-m", "harness.run", str(study), "--engine", engine, "--quiet"]
        command += [part for name, value in changes.items() for part in ("--set", f"{name}={json.dumps(value)}")]
        watch = Utilisation(bench.cuda)
        began = time.monotonic()
        env = {**os.environ, "HARNESS_CACHE": str(Path(folder) / "cache"), "MPLBACKEND": "Agg"}
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        seconds, used = time.monotonic() - began, watch.stop()
        records = [_row(record) for record in Store(Path(folder, "results", NAME)).records()]
    tails = {"stdout": done.stdout[-1500:], "stderr": done.stderr[-1500:]}
    found.put(key, {"code": done.returncode, "seconds": seconds, "gpu": used, "records": records, **tails})
    ended_well = sum(record["status"] == "ok" for record in records)
    places = sorted({(record["device"], record["precision"]) for record in records})
    trials = f"{ended_well} of {len(records)} trials ok"
    found.say(f"{key}, {engine}: code {done.returncode}, {seconds:.0f} s, {trials}, {places}, GPU {used}")
    for record in [record for record in records if record["status"] != "ok"][:3]:
        found.say(f"  {record}")
    if done.returncode:
        found.say("  " + (done.stderr.strip().splitlines() or [""])[-1][:250])


def _row(record: Any) -> dict[str, Any]:
    error = "" if record.error is None else record.error.message[:200]
    cost = record.cost.model_dump(include={"train_seconds", "total_seconds", "peak_memory_bytes", "device", "precision"})
    return {"task": record.spec.task.name, "strategy": record.spec.label, "status": record.status, "error": error, **cost}


class Utilisation:
    """Of GPU 0, asked for twice a second until `stop`."""

    def __init__(self, on: bool) -> None:
        self._seen: list[list[float]] = []
        self._end = threading.Event()
        if on:
            threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._end.wait(0.5):
            self._seen += query("utilization.gpu,memory.used")[:1]

    def stop(self) -> dict[str, float]:
        """Mean utilisation in percent and the peak of memory in MiB; empty where nothing was seen."""
        self._end.set()
        if not self._seen:
            return {}
        return {"mean_utilisation": statistics.mean(s[0] for s in self._seen), "peak_mib": max(s[1] for s in self._seen)}
