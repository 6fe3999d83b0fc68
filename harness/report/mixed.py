"""What the trials of one task do not share, though their numbers depend on it: code, version, processor, precision."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

from harness.records import TrialRecord

UNKNOWN = "not recorded"


def mixed(records: Iterable[TrialRecord]) -> list[str]:
    """A sentence for each such property; none where all trials of each task share it. Failed trials have no numbers."""
    found: dict[str, dict[str, Counter[str]]] = {name: defaultdict(Counter) for name in _PROPERTIES}
    for record in records:
        if record.status == "ok":
            for name, value in _PROPERTIES.items():
                found[name][record.spec.task.name][value(record) or UNKNOWN] += 1
    return [sentence for name, tasks in found.items() if (sentence := _sentence(name, tasks))]


def _sentence(name: str, tasks: Mapping[str, Counter[str]]) -> str:
    shares: dict[tuple[tuple[str, int], ...], list[str]] = defaultdict(list)
    for task, counts in tasks.items():
        if len(counts) > 1:
            shares[tuple(sorted(counts.items()))].append(task)
    if not shares:
        return ""
    said = (
        f"{', '.join(named)}: {', '.join(f'{value} ({count} trials)' for value, count in counts)}"
        for counts, named in shares.items()
    )
    return f"MIXED {name} in one column, so that differences between its cells may be differences of {name}: {'; '.join(said)}."


def _hardware(record: TrialRecord) -> str:
    environment, device = record.environment, record.cost.device
    return device if device not in ("", "cpu") else environment.get("processor", "")


_PROPERTIES: dict[str, Callable[[TrialRecord], str]] = {
    "harness code": lambda record: record.spec.harness_code,
    "torch version": lambda record: record.environment.get("torch", ""),
    "processor": _hardware,
    "precision": lambda record: record.cost.precision,
}
