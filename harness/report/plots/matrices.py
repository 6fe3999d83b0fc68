"""Heat maps with their numbers in them: gains over plain KD, and who beats whom."""

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
from harness.report.plots.style import FEW, LIGHT, new_figure, shown, wrapped
from harness.report.tables import task_headers
from harness.report.verdicts import BETTER, WORSE
from harness.stats.metrics import Array

_COLOURS = "PuOr"


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
