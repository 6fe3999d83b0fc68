"""Which teacher a strategy listened to."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from harness.report.leaderboard import Leaderboard
from harness.report.plots.style import BLACK, LIGHT, ORANGE, SKY, YELLOW, new_figure, shown
from harness.stats.metrics import Array

FILLS = ((SKY, ""), (ORANGE, "///"), ("#FFFFFF", "..."), (YELLOW, "xx"), (LIGHT, "\\\\"))
"""Colour and hatch of the first, second, ... teacher: each tells them apart alone."""


def draw_shares(board: Leaderboard) -> Figure | str:
    """Each teacher's share of the weight on the KD terms, at the kept epoch, mean over tasks and repeats."""
    shares = {i: found for i in board.order if (found := _shares(board, i))}
    if not shares:
        return "no strategy weighed several teachers one by one"
    teachers = sorted({teacher for found in shares.values() for teacher in found})
    longest = max(len(board.selection.labels[i]) for i in shares)
    figure = new_figure(4.4 + 0.075 * longest, 0.24 * len(shares) + 0.9)
    axis = figure.subplots()
    for y, found in enumerate(shares.values()):
        _bar(axis, y, np.array([found.get(teacher, 0.0) for teacher in teachers]))
    axis.set_yticks(range(len(shares)), [shown(board.selection.labels[i]) for i in shares])
    axis.set_ylim(len(shares) - 0.4, -0.6)
    axis.set_xlim(0, 100)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("share of the teachers' weight, percent")
    handles = [
        Patch(facecolor=colour, hatch=hatch, edgecolor=BLACK, linewidth=0.4, label=shown(teacher))
        for teacher, (colour, hatch) in zip(teachers, _fills(len(teachers)), strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(teachers)))
    return figure


def _bar(axis: Axes, y: int, shares: Array) -> None:
    percent = 100 * shares / shares.sum()
    left = 0.0
    for width, (colour, hatch) in zip(percent, _fills(len(percent)), strict=True):
        axis.barh(y, width, left=left, height=0.72, color=colour, hatch=hatch, edgecolor=BLACK, linewidth=0.4)
        if width >= 8:
            label = axis.text(left + width / 2, y, f"{width:.0f}", ha="center", va="center", fontsize=6.5)
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8})
        left += width


def _fills(count: int) -> list[tuple[str, str]]:
    return [FILLS[i % len(FILLS)] for i in range(count)]


def _shares(board: Leaderboard, label: int) -> dict[str, float]:
    """Teacher -> mean weight, over the chosen trials that weighed each of several teachers."""
    found: dict[str, list[float]] = {}
    for row in board.selection.of(board.selection.labels[label]):
        if row.record is None or len(row.record.spec.teachers) < 2 or not row.record.epochs:
            continue
        names = [teacher.name for teacher in row.record.spec.teachers]
        epoch = row.record.epochs[-1 if row.record.best_epoch is None else row.record.best_epoch]
        for weights in epoch.weights.values():
            if weights.by_row is not None and len(weights.by_row) == len(names):
                for name, weight in zip(names, weights.by_row, strict=True):
                    found.setdefault(name, []).append(weight)
    means = {name: float(np.mean(weights)) for name, weights in found.items()}
    return means if sum(means.values()) > 0 else {}
