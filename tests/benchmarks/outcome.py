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

MEASURED = "measured.json"
"""What all benchmarks have found, a key each."""


@dataclass(frozen=True)
class Target:
    """A figure that has a bound."""

    what: str
    found: float | None
    """None where this machine, or what is installed on it, cannot say."""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def reached(self) -> bool | None:
        if self.found is None:
            return None
        return (self.at_least is None or self.found >= self.at_least) and (self.at_most is None or self.found <= self.at_most)


@dataclass
class Outcome:
    title: str
    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)


@dataclass(frozen=True)
class Options:
    baselines: Path | None
    """Where requirements.txt is installed; None: comparisons with others are left out, and said to be."""
    out: Path
    cache: Path
    small: bool = False
    """Settings so tiny that the figures mean nothing: for tests of the benchmarks."""

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
    """Keep it as NAME among what is measured. Returns its table."""
    content = {"name": name, **asdict(outcome), "run": about}
    for target, kept in zip(outcome.targets, content["targets"], strict=True):
        kept["reached"] = target.reached
    keep(out, name, content)
    return "\n".join([*_markdown(content), "", _targets([content])])


def kept(out: Path) -> dict[str, Any]:
    """What was measured, by the benchmark's name."""
    file = out / MEASURED
    return json.loads(file.read_text("utf-8")) if file.exists() else {}


def keep(out: Path, name: str, content: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    found = kept(out) | {name: content}
    (out / MEASURED).write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n", "utf-8")


def summary(out: Path) -> None:
    """README.md with what was to be reached, and all tables that are there."""
    measured = kept(out)
    found = [one for one in measured.values() if "targets" in one]
    parts = [
        "# Benchmarks",
        "",
        f"Written by `python -m tests.benchmarks` (one of them alone: its name behind it), from `{MEASURED}`.",
        "",
        _targets(found),
        "",
    ]
    for one in found:
        parts += [*_markdown(one), ""]
    if "scale" in measured:
        parts += [scale_table(measured["scale"])]
    (out / "README.md").write_text("\n".join(parts), "utf-8")


def scale_table(found: dict[str, Any]) -> str:
    """Of the simulated studies and stores of `tests.benchmarks.scale`."""
    simulated, read = (
        tabulate(found[part], headers="keys", tablefmt="github", floatfmt=".4g") for part in ("simulated", "read")
    )
    commands = " and ".join(f"`{command}`" for command in found["commands"])
    growth = f"Processor time per trial, largest over smallest study: {found['growth']:.2f}.\n\n" if found["growth"] else ""
    return (
        f"## scale: the harness around simulated trials\n\n{commands} on {found['cores']} cores, no Ray: the harness's own "
        f"time for searches, store, event log and Optuna's copy.\n\n{simulated}\n\n{growth}"
        f"Reading (`status`, `report` and `plan` as commands):\n\n{read}\n"
    )


def _targets(found: list[dict[str, Any]]) -> str:
    rows = [
        {
            "benchmark": one["name"],
            "figure": target["what"],
            "found": "not measured" if target["found"] is None else f"{target['found']:.4g}",
            "to reach": f">= {target['at_least']:.4g}" if target["at_least"] is not None else f"<= {target['at_most']:.4g}",
            "reached": {True: "yes", False: "no", None: ""}[target["reached"]],
        }
        for one in found
        for target in one["targets"]
    ]
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True) if rows else ""


def _markdown(found: dict[str, Any]) -> list[str]:
    run = found["run"]
    lines = [
        f"## {found['name']}: {found['title']}",
        "",
        tabulate(_filled(found["rows"]), headers="keys", tablefmt="github"),
        "",
    ]
    lines += [f"- {note}" for note in found["notes"]]
    if run["small"]:
        lines.append("- Tiny settings (`--small`): these figures mean nothing.")
    shown = f"{run['processor']}, {run['cores']} cores, GPU {run['gpu']}, torch {run['torch']}"
    lines.append(f"- {shown}; load before {run['load_before']}, after {run['load_after']}; took {run['seconds']} s")
    return lines


def _filled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every row with every column, as a column may first appear in a later row."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: row.get(name, "") for name in columns} for row in rows]


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text("utf-8").splitlines() if path.exists() else []
