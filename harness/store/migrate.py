"""Records of older schema versions, made into current ones.

Version 1 (before the first release) differs from 2 in this:
- `spec.seed`, one number, stood for all purposes; 2 has `spec.seeds`, one per purpose.
- `spec.purpose` was not there: every trial was a search's. `spec.student_digest` was not there either.
- `cost.seconds` was the whole time of the trial; 2 tells optimisation (`train_seconds`) from all (`total_seconds`).
- `error` was its text; 2 has kind, type, message and traceback.
- `report` held one split, the validation rows; 2 holds splits by name.
- `majority` was not there: what a failed trial scores has to be taken from another trial of the same data.
"""

from __future__ import annotations

from typing import Any


def migrate(record: dict[str, Any], version: int) -> dict[str, Any]:
    """The record as the current schema has it. `version` is 1 (the only older one)."""
    if version == 1:
        return _from_version_1(record)
    raise ValueError(f"no migration from schema version {version}")


def _from_version_1(record: dict[str, Any]) -> dict[str, Any]:
    new = dict(record)
    spec = dict(record["spec"])
    seed = spec.pop("seed")
    spec["seeds"] = {"student": seed, "order": seed, "dropout": seed, "strategy": seed}
    spec.setdefault("purpose", "search")
    spec.setdefault("student_digest", "")  # was not recorded
    cost = dict(record.get("cost", {}))
    # the share of optimisation is not known; the whole is the safe bound
    cost["total_seconds"] = cost["train_seconds"] = cost.pop("seconds", 0.0)
    report = record.get("report")
    error = record.get("error")
    new |= {
        "schema_version": 2,
        "spec": spec,
        "cost": cost,
        "report": {"validation": report} if report else {},
        "error": {"kind": "bug", "type": "unknown", "message": error, "traceback": ""} if error else None,
    }
    return new
