"""Critical-difference diagram (Demsar, JMLR 2006)."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from harness.report.leaderboard import Leaderboard
from harness.report.plots.style import BLUE, FEW, GREY, new_figure, shown

_ROW, _BAR = 0.2, 0.09


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
