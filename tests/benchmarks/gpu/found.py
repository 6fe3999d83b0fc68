"""What a stage has found so far, in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Found:
    """Written after every addition: a stage that is stopped leaves what it has."""

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
