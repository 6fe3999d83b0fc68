"""The leaderboard's content as text: one place that says how a figure is written, for every table."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from harness.report.leaderboard import Leaderboard
from harness.report.sampled import Estimate
from harness.report.verdicts import AgainstControls, Comparison
from harness.stats.measures import MEASURES
from harness.study.comparisons import CONTROLS, EQUAL_ROWS

NOTHING = "–"
WITHHELD = "withheld"


@dataclass(frozen=True)
class Cell:
    """A score in points with its spread and marks."""

    mean: float
    spread: float
    mark: int
    """1 / -1: significantly better / worse than plain KD."""
    failed: int
    """Repeats that the majority predictor stands in for."""
    incomplete: bool

    def text(self, better: str = " ▲", worse: str = " ▼", failed: str = " †", missing: str = " ‡", spread: str = " ± ") -> str:
        if math.isnan(self.mean):
            return NOTHING + (missing if self.incomplete else "")
        shown = f"{self.mean:.1f}" + ("" if math.isnan(self.spread) else f"{spread}{self.spread:.1f}")
        shown += {1: better, -1: worse, 0: ""}[self.mark]
        return shown + (failed if self.failed else "") + (missing if self.incomplete else "")


def score_cell(board: Leaderboard, label: int, task: int) -> Cell:
    selection = board.selection
    rows = selection.of(selection.labels[label], selection.tasks[task])
    return Cell(
        mean=100 * float(board.task_mean[label, task]),
        spread=100 * float(board.task_spread[label, task]),
        mark=board.significant(label, task),
        failed=sum(row.state == "failed" for row in rows),
        incomplete=any(row.state in ("missing", "incomplete") for row in rows),
    )


def coverage(board: Leaderboard, label: int) -> str:
    """Cells scored / planned, and how many of them by the majority predictor."""
    rows = board.selection.of(board.selection.labels[label])
    scored = sum(row.state in ("ok", "failed") for row in rows)
    failed = sum(row.state == "failed" for row in rows)
    return f"{scored}/{len(rows)}" + (f" ({failed} failed)" if failed else "")


def withheld(board: Leaderboard, label: int) -> bool:
    return any(row.state in ("missing", "incomplete") for row in board.selection.of(board.selection.labels[label]))


def estimate(found: Estimate, label: int, scale: float = 1.0, digits: int = 1, sign: bool = False) -> str:
    """`value [low, high]`; the value alone where there is no interval."""
    value, low, high = (float(a[label]) * scale for a in (found.value, found.low, found.high))
    if math.isnan(value):
        return NOTHING
    plus = "+" if sign else ""
    shown = f"{_zero(value, digits):{plus}.{digits}f}"
    if math.isnan(low):
        return shown
    return f"{shown} [{_zero(low, digits):{plus}.{digits}f}, {_zero(high, digits):{plus}.{digits}f}]"


def signed(value: float) -> str:
    """A fraction as points with its sign."""
    return f"{_zero(100 * value, 1):+.1f}"


def difference(value: float, low: float, high: float) -> str:
    """Fractions as points: `+0.4 [-0.1, +0.9]`."""
    return NOTHING if math.isnan(value) else f"{signed(value)} [{signed(low)}, {signed(high)}]"


def p_value(p: float) -> str:
    if math.isnan(p):
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def number(value: float, digits: int = 1, suffix: str = "") -> str:
    return NOTHING if math.isnan(value) else f"{value:.{digits}f}{suffix}"


def _zero(value: float, digits: int) -> float:
    """No minus sign before a rounded zero."""
    return 0.0 if round(value, digits) == 0 else value


def rank(board: Leaderboard, label: int) -> str:
    """E.g. "1-35 of 38": shared with all that it is not told apart from."""
    if board.rank_ranges is None:
        return NOTHING
    found = board.rank_ranges[label]
    span = f"{found.best}" if found.best == found.worst else f"{found.best}-{found.worst}"
    return f"{span} of {len(board.rank_ranges)}"


def overall_columns(board: Leaderboard) -> dict[str, list[str]]:
    """Header -> text per strategy, in the order of `selection.labels`. Columns without any figure are left out."""
    count = range(len(board.selection.labels))
    costs = board.costs
    plain = board.baseline_label
    columns: dict[str, list[str]] = {}
    if plain is not None:
        gains = {f"Gain over {plain} [95 %]": board.gain, "Precision-weighted [95 %]": board.gain_weighted}
        texts = {
            name: [NOTHING if i == board.baseline else estimate(found, i, 100, 1, sign=True) for i in count]
            for name, found in gains.items()
        }
        first, second = texts
        columns[first] = texts[first]
        columns["Verdict"] = [board.verdict(i) or NOTHING for i in count]
        columns["p"] = [p_value(one.p) if (one := board.comparisons[i]) is not None else NOTHING for i in count]
        columns[second] = texts[second]
    columns["Mean [95 %]"] = [estimate(board.mean_score, i, 100) for i in count]
    columns["Rank"] = [rank(board, i) for i in count]
    columns["Normalised"] = [number(_zero(float(board.normalised[i]), 2), 2) for i in count]
    if board.equal_compute is not None:
        columns["Mean at equal compute"] = [number(100 * float(board.equal_compute[i])) for i in count]
    if plain is not None:
        columns["Time ×"] = [number(float(costs.relative_seconds[i]), 2) for i in count]
        columns["Passes ×"] = [number(float(costs.relative_passes[i]), 2) for i in count]
    columns["Seconds"] = [number(float(costs.seconds[i]), 1 if costs.seconds[i] < 100 else 0) for i in count]
    columns["Peak GiB"] = [number(float(costs.memory[i]) / 2**30, 2) for i in count]
    columns["Cells"] = [coverage(board, i) for i in count]
    averages = [name for name in columns if name.startswith(("Gain", "Precision", "Mean", "Normalised"))]
    for i in count:
        if withheld(board, i):
            for name in averages:
                columns[name][i] = WITHHELD
    return {name: cells for name, cells in columns.items() if any(cell not in (NOTHING, WITHHELD) for cell in cells)}


def further_split_columns(board: Leaderboard) -> dict[str, list[str]]:
    """Scores on splits that the headline is not of, and their difference to plain KD; header -> text per strategy."""
    columns: dict[str, list[str]] = {}
    count = range(len(board.selection.labels))
    for name, (score, against) in board.further_splits.items():
        columns[f"{name} [95 %]"] = [estimate(score, i, 100) for i in count]
        if board.baseline is not None:
            minus = [NOTHING if i == board.baseline else estimate(against, i, 100, sign=True) for i in count]
            columns[f"{name} minus {board.baseline_label} [95 %]"] = minus
    return columns


def noise_columns(board: Leaderboard) -> dict[str, list[str]]:
    """Gain over plain KD by share of flipped labels; header -> text per strategy. Empty where all tasks have the same share."""
    return {
        f"{level.rstrip('%')} % flipped: minus {board.baseline_label} [95 %]": [
            NOTHING if i == board.baseline else estimate(found, i, 100, sign=True) for i in range(len(board.selection.labels))
        ]
        for level, found in board.noise_gains.items()
    }


def measure_columns(board: Leaderboard, names: Collection[str] = tuple(MEASURES)) -> dict[str, list[str]]:
    """Measures of probabilities over tasks, and their difference to plain KD; header -> text per strategy."""
    columns: dict[str, list[str]] = {}
    for name in names:
        if (found := board.measures.get(name)) is not None:
            measure, places = MEASURES[name], range(len(board.selection.labels))
            texts = [estimate(found.value, i, measure.scale, measure.digits) for i in places]
            columns[f"{measure.title} [95 %]"] = [WITHHELD if text == NOTHING else text for text in texts]
            if board.baseline is not None:
                columns[f"{measure.title} minus {board.baseline_label} [95 %]"] = [
                    NOTHING if i == board.baseline else estimate(found.difference, i, measure.scale, measure.digits, sign=True)
                    for i in places
                ]
    return columns


class SideTable(NamedTuple):
    """`rows` have as many cells as `header`; the first is the strategy's label."""

    title: str
    header: list[str]
    rows: list[list[str]]
    said: str


def side_tables(board: Leaderboard) -> list[SideTable]:
    """What stands below the scores and the figures over tasks, in `leaderboard.md` and on the page; without those of a family
    that was not declared, and of rows that there are none of.
    """
    tables = []
    if board.controls:
        header = ["strategy", "Verdict", "p", *(f"minus {wrapper} [95 %]" for wrapper in CONTROLS)]
        tables.append(SideTable("Against their own controls", header, _control_rows(board), CONTROLS_SAID))
    if board.equal_rows:
        (without,) = board.equal_rows[0].controls
        rows = [[*_judged(one), _difference(one.comparisons[0])] for one in board.equal_rows]
        header = ["strategy", "Verdict", "p", f"minus {without} [95 %]"]
        tables.append(SideTable("On equal rows", header, rows, EQUAL_ROWS_SAID))
    return tables + columns_table("On further rows", further_split_columns(board), FURTHER_ROWS_SAID, board)


def columns_table(title: str, columns: dict[str, list[str]], said: str, board: Leaderboard) -> list[SideTable]:
    """Of columns for all strategies, best first; none where there are no columns."""
    rows = [[board.selection.labels[i], *(cells[i] for cells in columns.values())] for i in board.order]
    return [SideTable(title, ["strategy", *columns], rows, said)] if columns else []


def _control_rows(board: Leaderboard) -> list[list[str]]:
    kinds = [f"{wrapper}(" for wrapper in CONTROLS]
    rows = []
    for one in board.controls:
        names = {board.selection.strategies[control].partition("(")[0] + "(": k for k, control in enumerate(one.controls)}
        found = [one.comparisons[names[kind]] if kind in names else None for kind in kinds]
        rows.append([*_judged(one), *(NOTHING if each is None else _difference(each) for each in found)])
    return rows


def _judged(one: AgainstControls) -> list[str]:
    return [one.label, one.words or NOTHING, p_value(one.p)]


def _difference(one: Comparison) -> str:
    return difference(one.value, one.low, one.high)


CONTROLS_SAID = (
    "Control family, declared: a learned strategy has to beat its weights on the wrong samples (shuffled) and one weight for "
    "the batch (batch_mean), both of them. p: the larger of the two, corrected over all of these comparisons as above."
)

EQUAL_ROWS_SAID = (
    "Equal rows, declared: a strategy with a meta set against plain KD that does without the labels of that set "
    f"({EQUAL_ROWS}): what its use is worth, apart from what it costs in labels. p: corrected over these comparisons as above."
)

FLIPPED_SAID = "Mean over the tasks of the mean that have this share of their training labels flipped; explored, without marks."

FURTHER_ROWS_SAID = "Rows that were reported on, too, and that no figure above is of; explored, without marks."
