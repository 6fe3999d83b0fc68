"""The leaderboard as plots: scores with 95 % intervals, over tasks and on each task; gains over plain KD, with verdicts."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.report.cells import difference
from harness.report.leaderboard import Leaderboard
from harness.report.plots.style import (
    BLACK,
    BLUE,
    FEW,
    GREEN,
    GREY,
    KINDS,
    LIGHT,
    SERIES,
    VERMILLION,
    kind_legend,
    kind_of,
    new_figure,
    shown,
)
from harness.report.tables import task_headers
from harness.report.verdicts import BETTER, EQUIVALENT, UNDECIDED, WORSE

_TEACHER: dict[str, Any] = {"color": GREY, "linewidth": 0.8, "linestyle": ":"}
_REPEAT: dict[str, Any] = {"linestyle": "none", "marker": "|", "color": GREY, "markersize": 4, "markeredgewidth": 0.7}

COLOURS = {BETTER: GREEN, WORSE: VERMILLION, EQUIVALENT: BLUE, UNDECIDED: GREY, "": BLACK}
_INDENT = "    "


def draw_scores(board: Leaderboard) -> Figure:
    """Rows are strategies, best on top; one panel over tasks (where there is one to show), one panel per task."""
    order = board.order
    overall = board.mean_score
    tasks = len(board.selection.tasks)
    with_overall = bool(np.isfinite(overall.value).any()) and tasks > 1
    longest = max(len(label) for label in board.selection.labels)
    widths = ([2.1] if with_overall else []) + [1.25 if tasks > 1 else 3.0] * tasks
    figure = new_figure(sum(widths) + 0.085 * longest + 0.3, 0.21 * len(order) + 1.15)
    axes = list(figure.subplots(1, len(widths), sharey=True, width_ratios=widths, squeeze=False)[0])
    panels = list(axes)
    if with_overall:
        axis = panels.pop(0)
        for y, i in enumerate(order):
            _interval(axis, board, i, y, overall.value[i] * 100, overall.low[i] * 100, overall.high[i] * 100)
        axis.set_xlabel("mean over tasks")
        _withheld(axis, [y for y, i in enumerate(order) if np.isnan(overall.value[i])])
    for t, (axis, header) in enumerate(zip(panels, task_headers(board), strict=True)):
        for y, i in enumerate(order):
            runs = board.selection.shown_scores[i, t] * 100
            if len(runs) > 1:
                axis.plot(runs, np.full(len(runs), y), **_REPEAT)
            _interval(axis, board, i, y, board.task_mean[i, t] * 100, board.task_low[i, t] * 100, board.task_high[i, t] * 100)
        if board.baseline is not None:
            axis.axvline(board.task_mean[board.baseline, t] * 100, color="black", linewidth=0.6, linestyle="--", zorder=0)
        if np.isfinite(board.teacher[t]):
            axis.axvline(board.teacher[t] * 100, **_TEACHER, zorder=0)
        axis.set_xlabel(header)
        axis.locator_params(axis="x", nbins=4 if tasks > 1 else 8)
    first = axes[0]
    first.set_yticks(range(len(order)), [shown(board.selection.labels[i]) for i in order])
    first.set_ylim(len(order) - 0.5, -0.5)
    for axis in axes:
        axis.grid(axis="y", color=LIGHT, linewidth=0.4)
        axis.tick_params(axis="y", length=0)
    others = [Line2D([], [], label="one repeat", **_REPEAT)] if board.selection.repeats > 1 else []
    others += [Line2D([], [], label="teacher", **_TEACHER)] if np.isfinite(board.teacher).any() else []
    kind_legend(figure, {kind_of(board, i) for i in order}, others)
    return figure


def _interval(axis: Axes, board: Leaderboard, label: int, y: int, value: float, low: float, high: float) -> None:
    if np.isnan(value):
        return
    look = KINDS[kind_of(board, label)]
    if np.isfinite(low):
        axis.plot([low, high], [y, y], color=look["color"], linewidth=1.1, solid_capstyle="butt")
    axis.plot([value], [y], linestyle="none", markersize=4.5, markeredgewidth=1, **look)


def _withheld(axis: Axes, rows: list[int]) -> None:
    for y in rows:
        axis.annotate(
            "withheld", (0.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=6, color=GREY, style="italic"
        )


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
    """Points over plain KD with 95 % intervals, the margin as a band, the verdict by colour and by word; where labels were
    flipped, and strategies are few, those by their share below.
    """
    rows = [(i, inside) for i, inside in forest_rows(board) if np.isfinite(board.gain.value[i])]
    if board.baseline is None or not rows:
        return "nothing can be compared with plain KD"
    longest = max(len(board.selection.labels[i]) + len(_INDENT) * inside for i, inside in rows)
    shares = board.noise_gains if len(rows) <= FEW else {}
    figure = new_figure(3.2 + 0.062 * longest + 3.0, (0.2 + 0.09 * len(shares)) * len(rows) + 0.8)
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
        for k, (found, (colour, style, marker)) in enumerate(zip(shares.values(), SERIES, strict=False), 1):
            low, value, high = (100 * float(end[i]) for end in (found.low, found.value, found.high))
            below = y + 0.75 * k / (len(shares) + 1)
            axis.plot([low, high], [below, below], color=colour, linestyle=style, linewidth=0.8)
            axis.plot([value], [below], marker=marker, markersize=3, color=colour)
    if shares:
        lines = [
            Line2D([], [], color=colour, linestyle=style, linewidth=0.8, marker=marker, markersize=3)
            for _, (colour, style, marker) in zip(shares, SERIES, strict=False)
        ]
        names = [f"{share.rstrip('%')} % of labels flipped" for share in shares]
        axis.legend(lines, names, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=3, frameon=False, fontsize=6.5)
    axis.set_yticks(range(len(rows)), [_INDENT * inside + shown(board.selection.labels[i]) for i, inside in rows])
    for label, (_, inside) in zip(axis.get_yticklabels(), rows, strict=True):
        label.set_color(GREY if inside else BLACK)
    axis.set_ylim(len(rows) - 0.4 + 0.2 * bool(shares), -0.6)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel(f"points over {shown(board.baseline_label or '')}, mean over tasks; grey band: ±{board.margin:g}")
    return figure
