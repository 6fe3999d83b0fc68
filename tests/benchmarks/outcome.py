"""What a benchmark found, as JSON and as a table."""

from __future__ import annotations

import importlib
import importlib.util
import json
import platform
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate


@dataclass
class Outcome:
    title: str
    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Options:
    baselines: Path | None
    """Where requirements.txt is installed; None: comparisons with others are left out, and said to be."""
    out: Path
    cache: Path

    def import_baseline(self, name: str) -> bool:
        """Import a module of the packages compared with; False where they are not there.

        Call this after models were built: transformers would try a torchvision that may not fit a CPU-only torch. The folder is
        visible only meanwhile, and behind everything else: torch and all that is shared stay the harness's.
        """
        if self.baselines is None:
            return False
        folder = str(self.baselines.resolve())
        sys.path.append(folder)
        try:
            if importlib.util.find_spec(name.split(".")[0]) is None:
                return False
            importlib.import_module(name)
        finally:
            sys.path.remove(folder)
        return True


def machine() -> dict[str, Any]:
    processors = [line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "processor": processors[0] if processors else platform.processor(),
        "cores": len(processors),
        "gpu": gpu,
        "torch": torch.__version__,
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def write(outcome: Outcome, name: str, out: Path, about: dict[str, Any]) -> str:
    """NAME.json, and README.md with all tables that are there. Returns the outcome's own table."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps({"name": name, **asdict(outcome), "run": about}, indent=1) + "\n", "utf-8")
    parts = [_markdown(json.loads(path.read_text("utf-8"))) for path in sorted(out.glob("*.json"))]
    text = "# Benchmarks\n\nMade by `python -m tests.benchmarks`; one of them alone by its name behind it.\n\n"
    (out / "README.md").write_text(text + "\n\n".join(parts) + "\n", "utf-8")
    return _markdown(json.loads((out / f"{name}.json").read_text("utf-8")))


def _markdown(found: dict[str, Any]) -> str:
    run = found["run"]
    lines = [f"## {found['name']}: {found['title']}", "", tabulate(found["rows"], headers="keys", tablefmt="github"), ""]
    lines += [f"- {note}" for note in found["notes"]]
    shown = f"{run['processor']}, {run['cores']} cores, GPU {run['gpu']}, torch {run['torch']}"
    lines.append(f"- {shown}; load before {run['load_before']}, after {run['load_after']}; took {run['seconds']} s")
    return "\n".join(lines)


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text("utf-8").splitlines() if path.exists() else []
