"""Forest plot: each strategy's gain over plain KD, with its verdict."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from harness.report.cells import difference
from harness.report.leaderboard import Leaderboard
from harness.report.plots.style import BLACK, BLUE, GREEN, GREY, LIGHT, VERMILLION, new_figure, shown
from harness.report.verdicts import BETTER, EQUIVALENT, UNDECIDED, WORSE

COLOURS = {BETTER: GREEN, WORSE: VERMILLION, EQUIVALENT: BLUE, UNDECIDED: GREY, "": BLACK}
_INDENT = "    "


def forest_rows(board: Leaderboard) -> list[tuple[int, bool]]:
    """(label, indented): best first, each strategy's controls under it, references where their gain puts them."""
    under = {control: one.label for one in board.controls for control in one.controls}
    labels = board.selection.labels
    rows: list[tuple[int, bool]] = []
    for i in board.order:
        if i != board.baseline and labels[i] not in under:
            rows.append((i, False))
            rows += [(j, True) for j in board.order if under.get(labels[j]) == labels[i]]
    return rows


def draw_forest(board: Leaderboard) -> Figure | str:
    """Points over plain KD with 95 % intervals, the margin as a band, the verdict by colour and by word."""
    rows = [(i, inside) for i, inside in forest_rows(board) if np.isfinite(board.gain.value[i])]
    if board.baseline is None or not rows:
        return "nothing can be compared with plain KD"
    longest = max(len(board.selection.labels[i]) + len(_INDENT) * inside for i, inside in rows)
    figure = new_figure(3.2 + 0.062 * longest + 3.0, 0.2 * len(rows) + 0.8)
    axis = figure.subplots()
    axis.axvspan(-board.margin, board.margin, color=LIGHT, alpha=0.5, linewidth=0)
    axis.axvline(0, color="black", linewidth=0.7)
    for y, (i, _) in enumerate(rows):
        one = board.comparisons[i]
        assert one is not None  # it has a gain
        colour = COLOURS[one.verdict]
        axis.plot([100 * one.low, 100 * one.high], [y, y], color=colour, linewidth=1.2, solid_capstyle="butt")
        face = colour if one.verdict in (BETTER, WORSE, EQUIVALENT) else "white"
        axis.plot([100 * one.value], [y], marker="o", markersize=4.5, color=colour, markerfacecolor=face)
        text = f"{difference(one.value, one.low, one.high)}  {one.words}"
        axis.annotate(
            text, (1.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=6.5, color=colour, annotation_clip=False
        )
    axis.set_yticks(range(len(rows)), [_INDENT * inside + shown(board.selection.labels[i]) for i, inside in rows])
    for label, (_, inside) in zip(axis.get_yticklabels(), rows, strict=True):
        label.set_color(GREY if inside else BLACK)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel(f"points over {shown(board.baseline_label or '')}, mean over tasks; grey band: ±{board.margin:g}")
    return figure
