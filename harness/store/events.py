"""`events.jsonl`: one JSON object a line, appended by the process that runs the study, read by anybody meanwhile."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def append_event(path: Path, kind: str, fields: dict[str, Any]) -> None:
    """{"time": ..., "kind": kind, **fields}. Raises OSError."""
    line = json.dumps({"time": datetime.now(UTC).isoformat(), "kind": kind, **fields}, default=str) + "\n"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        end = os.fstat(descriptor).st_size
        if end and os.pread(descriptor, 1, end - 1) != b"\n":
            line = "\n" + line  # a process was killed in the middle of its line
        os.write(descriptor, line.encode())  # one write: lines of two processes do not mix
    finally:
        os.close(descriptor)


def event_lines(path: Path) -> list[str]:
    """As they stand in the file, which need not be there; one may be cut off, or hold anything."""
    return path.read_bytes().decode("utf-8", errors="replace").splitlines() if path.exists() else []


def parse_events(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The events of the lines that hold one: half a line says nothing, and nothing but the log depends on it."""
    found = []
    for line in lines:
        try:
            event = json.loads(line)
            datetime.fromisoformat(event["time"])
            event["kind"]
        except (ValueError, TypeError, KeyError):
            continue
        found.append(event)
    return found
