"""The leaderboard for a terminal: what fits, the answer in a sentence, and where the page is."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection
from textwrap import fill

from tabulate import tabulate

from harness.errors import printable
from harness.report.caption import study_name
from harness.report.cells import measure_columns, overall_columns, score_cell
from harness.report.finding import answer, on_equal_rows
from harness.report.leaderboard import Leaderboard
from harness.report.tables import task_headers
from harness.stats.measures import MEASURES

SPARE = 8
"""Lines beside the rows: heads, answer, address and prompt."""
MORE = ("p", "Rank", "Time", "Mean", "Precision", "Normalised", "Cells")
"""Columns that wider terminals get, in this order, before the tasks."""


def printed(board: Leaderboard, only: Collection[str] = (), measures: Collection[str] = ()) -> str:
    """For the terminal that this runs in; all rows where it runs in none."""
    size = shutil.get_terminal_size((80, 24))
    return text(board, size.columns, size.lines if sys.stdout.isatty() else None, only, measures)


def text(
    board: Leaderboard,
    width: int = 80,
    lines: int | None = None,
    only: Collection[str] = (),
    measures: Collection[str] = (),
) -> str:
    """No line is wider than `width`; at most `lines` lines, where given, plain KD among the rows. `only`: labels to show;
    `measures`: of probabilities, in the place of all other columns.

    A table of one column too many is unreadable, so columns come while they fit; what is left out is in the files.
    """
    columns = overall_columns(board)
    short = {name.split(" [")[0].split(" over ")[0]: cells for name, cells in columns.items()}
    order = [i for i in board.order if not only or board.selection.labels[i] in only]
    rows, left_out = _that_fit(board, order, lines)
    words = {i: one.word for i, one in enumerate(board.comparisons) if one is not None}
    table = {"strategy": list(board.selection.labels)}
    if measures:
        return _shown(board, _of_measures(board, measures, rows, width), rows, left_out, width)
    if "Gain" in short:
        table["gain"] = short.pop("Gain")
        if "Verdict" in short:
            table["verdict"] = [words.get(i, "") for i in range(len(board.selection.labels))]
        cost = "Passes ×"
    else:
        table["mean"] = short.pop("Mean", [""] * len(board.selection.labels))
        cost = "Seconds"
    table[cost.lower()] = short.pop(cost, [""] * len(board.selection.labels))
    table = _narrowed(table, rows, width)
    if "verdict" in table:
        longer = {**table, "verdict": short["Verdict"]}
        table = longer if _width(longer, rows) <= width else table
    candidates = {name.lower(): short[name] for start in MORE for name in short if name.split(" ")[0] == start}
    for t, header in enumerate(task_headers(board)):
        candidates[header] = [score_cell(board, i, t).text(spread="±") for i in range(len(board.selection.labels))]
    for name, cells in candidates.items():
        if _width({**table, name: cells}, rows) > width:
            break
        table[name] = cells
    return _shown(board, table, rows, left_out, width)


def _of_measures(board: Leaderboard, measures: Collection[str], rows: list[int], width: int) -> dict[str, list[str]]:
    """With intervals where all fit, else the values alone."""
    columns = {title.split(" [")[0].lower(): cells for title, cells in measure_columns(board, measures).items()}
    table = _narrowed({"strategy": list(board.selection.labels), **columns}, rows, width)
    if _width(table, rows) <= width:
        return table
    short = {MEASURES[name].title.lower(): columns[MEASURES[name].title.lower()] for name in measures}
    cut = {title: [cell.split(" [")[0] for cell in cells] for title, cells in short.items()}
    for shorter in (short, cut):
        table = _narrowed({"strategy": list(board.selection.labels), **shorter}, rows, width)
        if _width(table, rows) <= width:
            break
    return table


def _shown(board: Leaderboard, table: dict[str, list[str]], rows: list[int], left_out: int, width: int) -> str:
    said = [fill(sentence, width) for sentence in (answer(board), on_equal_rows(board)) if sentence]
    more = f"{left_out} more strategies: {board.selection.path / 'leaderboard.md'}\n" if left_out else ""
    page = f"Page of {study_name(board)}: {board.selection.path / 'index.html'}"
    return printable("\n".join([_table(table, rows) + "\n" + more, *said, page]))


def _that_fit(board: Leaderboard, order: list[int], lines: int | None) -> tuple[list[int], int]:
    if lines is None or len(order) <= max(lines - SPARE, 3):
        return order, 0
    kept = order[: max(lines - SPARE - 1, 3)]
    if board.baseline in order and board.baseline not in kept:
        kept = [*kept[:-1], board.baseline]
    return kept, len(order) - len(kept)


def _table(table: dict[str, list[str]], rows: list[int]) -> str:
    return tabulate(
        [[cells[i] for cells in table.values()] for i in rows], list(table), tablefmt="simple", disable_numparse=True
    )


def _width(table: dict[str, list[str]], rows: list[int]) -> int:
    return max(map(len, _table(table, rows).splitlines()))


def _narrowed(table: dict[str, list[str]], rows: list[int], width: int) -> dict[str, list[str]]:
    """Long names end in dots where they must."""
    over = _width(table, rows) - width
    if over <= 0:
        return table
    longest = max(max(len(table["strategy"][i]) for i in rows) - over, 8)
    names = [name if len(name) <= longest else name[: longest - 1] + "…" for name in table["strategy"]]
    return {**table, "strategy": names}
