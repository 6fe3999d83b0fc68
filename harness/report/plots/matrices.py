"""Heat maps with their numbers in them: gains over plain KD, and who beats whom; critical differences (Demsar, JMLR 2006)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from harness.report.cells import score_cell
from harness.report.leaderboard import Leaderboard
from harness.report.plots.style import BLUE, FEW, GREY, LIGHT, new_figure, shown, wrapped
from harness.report.tables import task_headers
from harness.report.verdicts import BETTER, WORSE
from harness.stats.metrics import Array

_COLOURS = "PuOr"
_ROW, _BAR = 0.2, 0.09
"""Inches, of the diagram of ranks."""


def draw_gains(board: Leaderboard) -> Figure | str:
    """Differences to plain KD in points; bold with a star: significant; hatched: missing."""
    if board.baseline is None:
        return "the study has no fixed_alpha to compare with"
    order = [i for i in board.order if i != board.baseline]
    if not order:
        return "plain KD is the only strategy"
    several = len(board.selection.tasks) > 1
    values = board.difference[order] * 100
    headers = [shown(header.replace(" ", "\n")) for header in task_headers(board)]
    if several:
        values = np.concatenate([values, board.gain.value[order, None] * 100], axis=1)
        headers.append("mean over\ntasks")
    notes = [[_note(board, i, column) for column in range(values.shape[1])] for i in order]
    limit = max(1.0, float(np.nanquantile(np.abs(values), 0.95))) if np.isfinite(values).any() else 1.0
    longest = max(len(board.selection.labels[i]) for i in order)
    figure = new_figure(0.62 * values.shape[1] + 0.075 * longest + 1.3, max(0.23 * len(order) + 0.95, 1.6))
    axis = figure.subplots()
    image = _matrix(axis, values, Normalize(-limit, limit), _signed, notes)
    axis.set_xticks(range(values.shape[1]), headers)
    axis.set_yticks(range(len(order)), [shown(board.selection.labels[i]) for i in order])
    if several:
        axis.axvline(values.shape[1] - 1.5, color="black", linewidth=1)
    bar = figure.colorbar(image, ax=axis, shrink=min(1.0, 2.2 / (0.23 * len(order) + 0.4)), aspect=14, pad=0.02, extend="both")
    bar.set_label(f"points over\n{wrapped(board.baseline_label or '', 18)}", fontsize=7)
    bar.outline.set_linewidth(0.4)
    return figure


def draw_wins(board: Leaderboard) -> Figure | str:
    """Share of (task, repeat) in which the row's strategy beats the column's, in percent."""
    order = [i for i in board.order if np.isfinite(board.wins[i]).any()]
    if len(order) < 2:
        return "fewer than two strategies are complete"
    if len(order) > FEW:
        return f"more than {FEW} strategies are no picture to read: {len(order)}"
    values = board.wins[np.ix_(order, order)] * 100
    names = [shown(board.selection.labels[i]) for i in order]
    size = 0.27 * len(order)
    longest = max(len(name) for name in names) * 0.07
    figure = new_figure(max(size, 0.9) + longest + 0.7, max(size, 0.9) + longest + 0.8)
    axis = figure.subplots()
    axis.set_aspect("equal")
    _matrix(axis, values, Normalize(0, 100), lambda v: f"{v:.0f}", None)
    axis.set_xticks(range(len(order)), names, rotation=90)
    axis.set_yticks(range(len(order)), names)
    axis.set_xlabel("... beats this one\n(percent of tasks\nand repeats)")
    axis.set_ylabel("this strategy ...")
    return figure


def _signed(value: float) -> str:
    return "0.0" if abs(value) < 0.05 else f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")


def _note(board: Leaderboard, label: int, column: int) -> str:
    """`*` significant, `†` failed, `‡` missing cells."""
    if column == len(board.selection.tasks):
        found = board.comparisons[label]
        return "*" if found is not None and found.verdict in (BETTER, WORSE) else ""
    cell = score_cell(board, label, column)
    return ("*" if cell.mark else "") + ("†" if cell.failed else "") + ("‡" if cell.incomplete else "")


def _matrix(axis: Axes, values: Array, norm: Normalize, text: Callable[[float], str], notes: list[list[str]] | None) -> Any:
    image = axis.imshow(np.ma.masked_invalid(values), cmap=_COLOURS, norm=norm, aspect="auto", interpolation="nearest")
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            note = notes[y][x] if notes else ""
            if np.isnan(value):
                if notes is not None or x != y:
                    box = Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor="white", edgecolor=LIGHT, hatch="/////", linewidth=0)
                    axis.add_patch(box)
                continue
            red, green, blue, _ = colormaps[_COLOURS](norm(value))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            axis.text(
                x, y, text(value) + note, ha="center", va="center", fontsize=6.5,
                color="white" if dark else "black", fontweight="bold" if "*" in note else "normal",
            )  # fmt: skip
    axis.set_xticks(np.arange(values.shape[1] + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(values.shape[0] + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=0.8)
    axis.tick_params(which="both", length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return image


def draw_ranks(board: Leaderboard) -> Figure | str:
    """Mean ranks over tasks; a bar joins strategies that Nemenyi's test cannot tell apart."""
    ranking = board.ranking
    tasks, count = len(board.selection.tasks), len(board.selection.labels)
    if ranking is None:
        if count < 3 or tasks < 2:
            return f"ranks need at least 3 strategies and 2 tasks; there are {count} and {tasks}"
        return "cells are missing, and ranks of a table with holes mean nothing"
    if count > FEW:
        return f"more than {FEW} strategies are no picture to read: {count}; mean ranks stand in the table"
    order = np.argsort(ranking.mean_ranks, kind="stable")
    half = (count + 1) // 2
    longest = max(len(label) for label in board.selection.labels) * 0.068 + 0.4
    bars = 0.16 + _BAR * len(ranking.cliques)
    axis_width = 4.2
    width, height = axis_width + 2 * longest, 1.0 + bars + _ROW * half + 0.2
    figure = new_figure(width, height)
    figure.set_layout_engine("none")
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_xlim(0, width)
    axis.set_ylim(height, 0)  # inches from the top left corner
    axis.axis("off")

    def place(rank: float) -> float:
        return longest + axis_width * (rank - 1) / (count - 1)

    top = 0.8
    axis.plot([place(1), place(count)], [top, top], color="black", linewidth=0.8)
    for tick in _ticks(count):
        axis.plot([place(tick)] * 2, [top - 0.06, top], color="black", linewidth=0.8)
        axis.text(place(tick), top - 0.09, str(tick), ha="center", va="bottom", fontsize=7)
    difference = min(ranking.critical_difference, count - 1.0)
    axis.plot([place(1), place(1 + difference)], [0.38, 0.38], color=BLUE, linewidth=1.6, solid_capstyle="butt")
    for end in (1.0, 1 + difference):
        axis.plot([place(end)] * 2, [0.33, 0.43], color=BLUE, linewidth=1)
    found = "ranks differ" if ranking.friedman_p < 0.05 else "no evidence that ranks differ"
    axis.text(
        place(1), 0.27,
        f"critical difference {ranking.critical_difference:.2f} ({tasks} tasks, 5 %); "
        f"Friedman p {_p(ranking.friedman_p)}: {found}",
        ha="left", va="bottom", fontsize=7,
    )  # fmt: skip
    for number, clique in enumerate(ranking.cliques):
        ranks = ranking.mean_ranks[list(clique)]
        y = top + 0.12 + _BAR * number
        axis.plot([place(ranks.min()) - 0.04, place(ranks.max()) + 0.04], [y, y], color="black", linewidth=2.6)
    for position, i in enumerate(order):
        left = position < half
        row = position if left else count - 1 - position
        y = top + bars + _ROW * (row + 0.5)
        x, edge = place(ranking.mean_ranks[i]), longest - 0.12 if left else longest + axis_width + 0.12
        axis.plot([x, x, edge], [top, y, y], color=GREY, linewidth=0.6, zorder=0)
        name, rank = shown(board.selection.labels[i]), f"{ranking.mean_ranks[i]:.1f}"
        text = f"{name}  {rank}" if left else f"{rank}  {name}"
        axis.text(edge - 0.05 if left else edge + 0.05, y, text, ha="right" if left else "left", va="center", fontsize=7)
    return figure


def _ticks(count: int) -> list[int]:
    step = 1 if count <= 16 else 5
    return sorted({1, count, *(tick for tick in range(step, count + 1, step) if count - tick >= step / 2)})


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
