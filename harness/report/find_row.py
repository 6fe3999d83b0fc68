"""Finding a row of a store by what a person calls it, and comparing it with a second run: for `reproduce` and `export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import StoreError, UserError
from harness.records import TrialRecord, TrialSpec
from harness.report.selection import Selection, select
from harness.store.store import Store
from harness.study.schema_errors import nearest

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Reproduced:
    """Whether a second run of a trial says the same."""

    same: bool
    text: str


def find_record(results: Path, row: str) -> TrialRecord:
    """`row` is a key or its unique beginning, `task/label` or `task/label/repeat` (the chosen trial of that cell; repeat 0
    where not given), `task/label/best` (of the repeats' chosen trials the one that is best on `select`; report scores choose
    nothing), or `task/label/repeat/index` (any trial of the search).

    Raises UserError where nothing or more than one thing is meant.
    """
    parts = row.split("/")
    if len(parts) == 1:
        return _by_key(Store(results), row)
    selection = select(results)
    task, label, *rest = parts
    if rest == ["best"]:
        return _best_repeat(selection, task, label)
    if len(rest) > 2 or not all(part.isdigit() for part in rest):
        near = nearest(rest[0], ["best"]) if rest else ""
        raise UserError(f"{row!r} is no row.{near} Give a trial's key, TASK/STRATEGY/REPEAT, .../REPEAT/TRIAL or .../best")
    repeat = int(rest[0]) if rest else 0
    chosen = selection.rows.get((task, label, repeat))
    if chosen is None:
        raise _no_row(selection, row)
    if len(rest) < 2:
        if chosen.record is None:
            raise UserError(f"{row!r} was not run ({chosen.done} of {chosen.planned} trials are there)")
        return chosen.record
    spec = (task, label, repeat, int(rest[1]))
    found = [r for r in selection.records if (r.spec.task.name, r.spec.label, r.spec.repeat, r.spec.index) == spec]
    found = [r for r in found if r.spec.purpose == "search"] or found
    if not found:
        raise UserError(
            f"{results} has no trial {rest[1]} in {task}/{label}/{repeat}; it has {chosen.done} of {chosen.planned}"
        )
    return found[0]


def find_spec(results: Path, row: str) -> TrialSpec:
    """The specification of a row, ready to be trained again. Raises as `find_record`."""
    return find_record(results, row).spec


def compare_runs(stored: TrialRecord, again: TrialRecord, tolerance: float = 0.0) -> Reproduced:
    """The stored run and a new one: equal status, objective and report scores (up to `tolerance`), and what may explain it.

    Of trials that were stopped early, which have neither: loss and selection scores of every epoch that they trained. Of trials
    that failed: the error's type.
    """
    lines, same = [], stored.status == again.status
    if not same:
        lines.append(f"stored: {_ending(stored)}; now: {_ending(again)}")
    elif stored.status == "failed":
        same = _ending(stored, short=True) == _ending(again, short=True)
        lines.append(f"stored: {_ending(stored)}; now: {_ending(again)}")
        return Reproduced(same, "\n".join([*lines, f"It failed in {'the same' if same else 'another'} way."]))
    pairs: list[tuple[str, float | None, float | None]] = [("selection score", stored.objective, again.objective)]
    for split in sorted(set(stored.report) | set(again.report)):
        metrics = [record.report[split].metrics if split in record.report else {} for record in (stored, again)]
        pairs += [(f"{split} {name}", metrics[0].get(name), metrics[1].get(name)) for name in sorted(set().union(*metrics))]
    if stored.status == "stopped":
        lines.append(_where_it_stopped(stored))
        pairs = _epoch_pairs(stored, again)
    for name, before, now in pairs:
        equal = before == now if before is None or now is None else abs(before - now) <= tolerance
        same = same and equal
        lines.append(f"{name}: {_shown(before)} stored, {_shown(now)} now: {'the same' if equal else 'DIFFERENT'}")
    changed = [
        f"{name} {stored.environment.get(name, 'unknown')} -> {again.environment.get(name, 'unknown')}"
        for name in sorted(set(stored.environment) | set(again.environment))
        if stored.environment.get(name) != again.environment.get(name)
    ]
    if stored.spec.strategy_code != again.spec.strategy_code:
        changed.append("the strategy's code")
    if stored.spec.harness_code not in ("", again.spec.harness_code):
        changed.append("the harness's code")
    teachers = stored.teacher_contents, again.teacher_contents
    if all(teachers) and teachers[0] != teachers[1]:
        changed.append("what its teachers say: they were made again, and came out different")
    if changed:
        lines.append("changed since: " + "; ".join(changed))
    lines.append("The number came out the same." if same else "The number did not come out the same.")
    return Reproduced(same, "\n".join(lines))


def compare_predictions(stored: pd.DataFrame, again: pd.DataFrame) -> tuple[int, int, float]:
    """Rows, rows with another class, and the largest difference of a probability, both rounded to what a store keeps.

    Raises StoreError where the two are of different rows.
    """
    merged = stored.merge(again, on=["split", "id"], suffixes=("", "_again"), validate="one_to_one")
    if not len(merged) == len(stored) == len(again):
        raise StoreError(
            f"the two runs predict different rows: {len(stored)} stored, {len(again)} now, {len(merged)} in common"
        )
    names = [name for name in stored.columns if name.startswith("p") and name[1:].isdigit()]
    before, now = (merged[[n + end for n in names]].to_numpy(np.float16).astype(np.float32) for end in ("", "_again"))
    return len(merged), int((merged["predicted"] != merged["predicted_again"]).sum()), float(abs(before - now).max())


def _best_repeat(selection: Selection, task: str, label: str) -> TrialRecord:
    rows = [row for (t, s, _), row in selection.rows.items() if (t, s) == (task, label)]
    if not rows:
        raise _no_row(selection, f"{task}/{label}/best")
    good = [row.record for row in rows if row.record is not None and row.record.status == "ok"]
    if not good:
        raise UserError(f"no repeat of {task}/{label} has a result")
    return min(good, key=lambda record: (-(record.objective or 0.0), record.spec.repeat))


def _no_row(selection: Selection, row: str) -> UserError:
    task, label = row.split("/")[:2]
    places = ((task, selection.tasks), (label, selection.labels))
    near = next((nearest(given, known) for given, known in places if given not in known), "")
    return UserError(
        f"{selection.path} has no row {row!r}.{near} Tasks: {', '.join(selection.tasks)}; strategies: "
        f"{', '.join(selection.labels)}; repeats: 0 to {selection.repeats - 1}"
    )


def _by_key(store: Store, start: str) -> TrialRecord:
    known = store.keys()
    keys = [key for key in known if key.startswith(start)]
    if len(keys) != 1:
        found = "no trial has" if not keys else f"{len(keys)} trials have"
        raise UserError(f"{found} a key that begins with {start!r} in {store.path}")
    record = store.get(keys[0])
    if record is None:
        raise StoreError(f"the record of trial {keys[0]} is damaged: {store.damaged[keys[0]]}")
    return record


def _where_it_stopped(stored: TrialRecord) -> str:
    rule = f" ({stored.early_stopping.kind})" if stored.early_stopping else ""
    return (
        f"Its search stopped this trial early{rule}, after epoch {stored.stopped_after_epoch} of "
        f"{stored.spec.training.epochs}: it was trained up to there again. It has no selection score and was never scored on "
        f"the report rows."
    )


def _epoch_pairs(stored: TrialRecord, again: TrialRecord) -> list[tuple[str, float | None, float | None]]:
    pairs: list[tuple[str, float | None, float | None]] = []
    for k in range(max(len(stored.epochs), len(again.epochs))):
        values = [
            {"training loss": record.epochs[k].train_loss, **record.epochs[k].select} if k < len(record.epochs) else {}
            for record in (stored, again)
        ]
        pairs += [(f"epoch {k + 1} {name}", values[0].get(name), values[1].get(name)) for name in {**values[0], **values[1]}]
    return pairs


def _ending(record: TrialRecord, short: bool = False) -> str:
    if record.error is None:
        return record.status
    return record.error.type if short else f"{record.status}, {record.error.type}: {record.error.message}"


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.6f}"
