"""Score against cost, with the Pareto front."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression, linear_sum_assignment
from scipy.spatial.distance import cdist

from harness.report.leaderboard import Leaderboard
from harness.report.plots.style import KINDS, kind_legend, kind_of, new_figure, shown
from harness.stats.aggregate import pareto_front
from harness.stats.metrics import Array

NAMES_AT = 1.04
"""Where names begin, in widths of the axes."""


def draw_cost(board: Leaderboard) -> Figure | str:
    """Training time relative to plain KD (seconds where there is none) and score; names at the right, tied to their points."""
    relative = board.baseline is not None and np.isfinite(board.costs.relative_seconds).any()
    cost = board.costs.relative_seconds if relative else board.costs.seconds
    score = board.mean_score.value * 100
    points = [i for i in board.order if np.isfinite(cost[i]) and np.isfinite(score[i]) and cost[i] > 0]
    if len(points) < 2:
        return "fewer than two strategies have both a score over all tasks and a cost"
    if len(board.costs.devices) > 1:
        return f"the trials ran on different devices ({', '.join(board.costs.devices)}): their seconds cannot be compared"
    longest = max(len(board.selection.labels[i]) for i in points)
    height = max(3.4, 0.16 * len(points) + 1.0)
    figure = new_figure(4.6 + 0.075 * longest, height)
    axis = figure.subplots()
    front = [points[i] for i in pareto_front(cost[points], score[points])]
    axis.plot(cost[front], score[front], color="black", linewidth=0.9, drawstyle="steps-post", zorder=1)
    for i in points:
        look = dict(KINDS[kind_of(board, i)])
        size = 6.5 if i in front else 4.5
        axis.plot([cost[i]], [score[i]], linestyle="none", markersize=size, markeredgewidth=1, zorder=3, **look)
    if cost[points].max() / cost[points].min() > 8:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.margins(x=0.06, y=0.06)
    # what is all but equal is to look so
    axis.update_datalim([(factor * float(cost[points].mean()), float(score[points].mean())) for factor in (0.95, 1.05)])
    axis.update_datalim([(float(cost[points].mean()), float(score[points].mean()) + shift) for shift in (-0.5, 0.5)])
    axis.autoscale_view()
    axis.set_xlabel(
        f"training time relative to {shown(board.baseline_label or '')}" if relative else "training seconds of one trial"
    )
    axis.set_ylabel("mean score")
    _names(axis, board, points, cost, score, front, height)
    kind_legend(figure, {kind_of(board, i) for i in points})
    return figure


def _names(
    axis: Axes, board: Leaderboard, points: list[int], cost: Array, score: Array, front: list[int], height: float
) -> None:
    """A column right of the axes, a row apart at least, tied to the points by lines that do not cross."""
    axis.set_xlim(axis.get_xlim())
    axis.set_ylim(axis.get_ylim())
    fractions = (axis.transScale + axis.transLimits).transform(np.column_stack([cost[points], score[points]]))
    for i, row in zip(points, name_rows(fractions, 0.155 / (height - 0.9)), strict=True):
        axis.annotate(
            shown(board.selection.labels[i]), (cost[i], score[i]), xytext=(NAMES_AT, row), textcoords="axes fraction",
            va="center", fontsize=7, fontweight="bold" if i in front else "normal", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "#AAAAAA", "linewidth": 0.4, "shrinkA": 0, "shrinkB": 3,
                        "relpos": (0, 0.5)},
        )  # fmt: skip


def name_rows(points: Array, step: float) -> Array:
    """Heights [points] of the names' rows, `step` apart at least; all in fractions of the axes.

    Rows are as near to the points' heights as they can be, and names are dealt out so that the lines' total length is least:
    then no two lines cross, for uncrossing them would be shorter.
    """
    order = np.arange(len(points)) * step
    heights = isotonic_regression(np.sort(points[:, 1]) - order).x  # the rows' own heights taken off: two may not meet
    rows = np.clip(heights, 0.0, max(1.0 - order[-1], 0.0)) + order
    ends = np.column_stack([np.full(len(rows), NAMES_AT), rows])
    _, dealt = linear_sum_assignment(cdist(points, ends))
    return np.asarray(rows[dealt])
