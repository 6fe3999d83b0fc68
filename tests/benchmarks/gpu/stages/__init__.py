"""The stages: each a module with `run(found, bench)`, in a process of its own with a limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ALONE = {
    "environment": 40,
    "fidelity": 75,
    "steps": 120,
    "waits": 40,
    "shapes": 60,
    "ranks": 75,
    "throughput": 60,
    "graphs": 80,
    "teacher_outputs": 50,
    "packed": 110,
}
"""One after another, as what they measure is time. Name -> limit in seconds."""

TOGETHER = {"checks": 150, "study": 150, "ray_study": 150}
"""At the same time, last: only their results count."""

LIMITS = {**ALONE, **TOGETHER}


class Found:
    """What a stage has found so far, in a file. Written after every addition: a stage that is stopped leaves what it has."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.content: dict[str, Any] = {"lines": []}

    def put(self, key: str, value: Any) -> None:
        self.content[key] = value
        self._write()

    def add(self, key: str, value: Any) -> None:
        self.content.setdefault(key, []).append(value)
        self._write()

    def say(self, line: str) -> None:
        """A line for a person who watches."""
        print(line, flush=True)
        self.content["lines"].append(line)
        self._write()

    def _write(self) -> None:
        self.file.write_text(json.dumps(self.content, indent=1, default=str) + "\n", "utf-8")
