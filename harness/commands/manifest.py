"""What a study was run with, written beside its results. No host name, no user name, no absolute path."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import __version__
from harness.plan.plan import Plan
from harness.plan.prepared import PreparedTask
from harness.study.tasks import official_rows

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "ray", "optuna", "numpy", "pandas", "scikit-learn", "scipy")

_CODE = ("harness", "strategies", "pyproject.toml")


def make_manifest(
    plan: Plan, prepared: Mapping[str, PreparedTask], study_file: Path, command: Sequence[str], started_at: str
) -> dict[str, Any]:
    """The manifest at the start of a run; `finished_at` and `trials` (keys) are added by whoever ends it."""
    return {
        "protocol_version": plan.study.protocol.version,
        "study": _portable_values(plan.study.model_dump(mode="json")),
        "study_file": study_file.name,
        "command": list(command),
        "digests": {task: ready.digests for task, ready in prepared.items()},
        "rows": {task: ready.rows for task, ready in prepared.items()},
        "official_rows": {task.name: official_rows(task.source_name) for task in plan.tasks},
        "data_origin": {task: ready.origin for task, ready in prepared.items()},
        "teachers": {task: ready.teacher_digests for task, ready in prepared.items()},
        "teacher_errors": {
            task: {name: error.model_dump() for name, error in ready.teacher_errors.items()}
            for task, ready in prepared.items()
            if ready.teacher_errors
        },
        "protocol_warnings": list(plan.warnings),
        "planned_cells": [
            {
                "task": cell.task.name,
                "label": cell.entry.shown,
                "strategy": cell.entry.name,
                "repeat": cell.repeat,
                "trials": cell.trials,
                "final_repeats": cell.final_repeats,
            }
            for cell in plan.cells
        ],
        "harness": __version__,
        "git": git_state(),
        "packages": package_versions(),
        "hardware": hardware(),
        "started_at": started_at,
        "finished_at": None,
    }


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def portable(path: str) -> str:
    """A path that says nothing of this machine: relative where it lies below or beside this folder, else its name alone."""
    if not Path(path).is_absolute():
        return path
    relative = Path(os.path.relpath(path))
    return Path(path).name if relative.parts[:2] == ("..", "..") else str(relative)


def git_state() -> dict[str, Any] | None:
    """Commit of the harness's own checkout, and whether its code differs from it; None where there is none."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git(
            "ls-files", "--error-unmatch", str(Path(__file__).resolve().relative_to(root))
        )  # not some repository that an environment happens to lie in
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", *_CODE))}
    except (OSError, subprocess.CalledProcessError):
        return None


def package_versions() -> dict[str, str]:
    """Name -> version of the installed packages that matter."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def hardware() -> dict[str, Any]:
    """Processor, memory and accelerators of this machine."""
    import psutil
    import torch

    from harness.training.device import processor, processor_has_bf16

    return {
        "processor": processor(),
        "bf16": {True: "yes", False: "no", None: "unknown"}[processor_has_bf16()],
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _portable_values(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _portable_values(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_portable_values(value) for value in content]
    return portable(content) if isinstance(content, str) else content
