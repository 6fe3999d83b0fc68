"""What the weights did: over training, by teacher and its correctness, and as a detector of flipped labels."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from harness.records import EpochRecord
from harness.report.leaderboard import Leaderboard
from harness.report.plots.style import (
    BLACK,
    GREY,
    LIGHT,
    ORANGE,
    SERIES,
    SKY,
    YELLOW,
    new_figure,
    shown,
    small_multiples,
    wrapped,
)
from harness.stats.metrics import Array

FILLS = ((SKY, ""), (ORANGE, "///"), ("#FFFFFF", "..."), (YELLOW, "xx"), (LIGHT, "\\\\"))
"""Colour and hatch of the first, second, ... teacher: each tells them apart alone."""


def histories(board: Leaderboard, label: int) -> list[tuple[str, list[EpochRecord], int]]:
    """Task, epochs and kept epoch of the chosen trials that logged weights."""
    rows = board.selection.of(board.selection.labels[label])
    return [
        (row.task, row.record.epochs, row.record.epochs[-1].epoch if row.record.best_epoch is None else row.record.best_epoch)
        for row in rows
        if row.record is not None and any(epoch.weights for epoch in row.record.epochs)
    ]


def terms_of(histories: list[tuple[str, list[EpochRecord], int]]) -> list[str]:
    found = {name for _, epochs, _ in histories for epoch in epochs for name in epoch.weights}
    return sorted(found, key=lambda name: (name != "ce", name != "kd", name))[: len(SERIES)]


def draw_trajectories(board: Leaderboard) -> Figure | str:
    """Weights of each term over epochs: median, middle half and middle 80 % of the samples, mean over tasks and repeats."""
    found = {i: logged for i in board.order if (logged := histories(board, i))}
    if not found:
        return "no trial logged its weights"
    terms = terms_of([one for logged in found.values() for one in logged])
    figure, panels = small_multiples(len(found))
    for panel, (i, logged) in zip(panels, found.items(), strict=True):
        reached = 1.0
        for term, (colour, line, marker) in zip(terms, SERIES, strict=False):
            x, quantiles = mean_quantiles(logged, term)
            if not len(x):
                continue
            if term == terms[0]:
                panel.fill_between(x, quantiles[:, 1], quantiles[:, 5], color=colour, alpha=0.14, linewidth=0)
                panel.fill_between(x, quantiles[:, 2], quantiles[:, 4], color=colour, alpha=0.25, linewidth=0)
            else:  # two bands on one another would mix their colours
                for column in (1, 5):
                    panel.plot(x, quantiles[:, column], color=colour, linestyle=line, linewidth=0.6)
            if len(x) == 1:
                panel.vlines(x, quantiles[:, 1], quantiles[:, 5], color=colour, linewidth=1)
            panel.plot(x, quantiles[:, 3], color=colour, linestyle=line, marker=marker, markersize=2.5, label=shown(term))
            reached = max(reached, float(quantiles[:, 5].max()))
        panel.set_title(wrapped(board.selection.labels[i]), fontsize=7)
        panel.set_ylim(-0.05 * reached, 1.05 * reached)
        panel.locator_params(axis="x", integer=True, nbins=5)
        panel.locator_params(axis="y", nbins=4)
    figure.supxlabel("epoch", fontsize=8)
    figure.supylabel("weight of a sample", fontsize=8)
    _term_legend(figure, terms)
    return figure


def mean_quantiles(histories: list[tuple[str, list[EpochRecord], int]], term: str) -> tuple[Array, Array]:
    """Epochs counted from 1, and quantiles [epochs, 7], mean over the trials that reached the epoch."""
    by_epoch: dict[int, list[list[float]]] = defaultdict(list)
    for _, epochs, _ in histories:
        for epoch in epochs:
            if term in epoch.weights:
                by_epoch[epoch.epoch + 1].append(epoch.weights[term].quantiles)
    xs = sorted(by_epoch)
    return np.array(xs, float), np.array([np.mean(by_epoch[x], axis=0) for x in xs])


def draw_teacher(board: Leaderboard) -> Figure | str:
    """Mean weight of samples that the teacher gets right (filled) and wrong (open), at the kept epoch."""
    values: dict[str, dict[int, tuple[float, float]]] = defaultdict(dict)
    for i in board.order:
        pairs: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for _, epochs, kept in histories(board, i):
            for term, weights in next((e for e in epochs if e.epoch == kept), epochs[-1]).weights.items():
                if weights.teacher_right is not None and weights.teacher_wrong is not None:
                    pairs[term].append((weights.teacher_right, weights.teacher_wrong))
        for term, some in pairs.items():
            right, wrong = np.mean(some, axis=0)
            values[term][i] = (float(right), float(wrong))
    if not values:
        return "no trial logged weights beside teacher correctness"
    terms = sorted(values, key=lambda name: (name != "ce", name != "kd", name))[:3]
    rows = [i for i in board.order if any(i in values[term] for term in terms)]
    longest = max(len(board.selection.labels[i]) for i in rows)
    figure = new_figure(2.3 * len(terms) + 0.075 * longest + 0.3, 0.21 * len(rows) + 1.1)
    axes = list(figure.subplots(1, len(terms), sharey=True, squeeze=False)[0])
    for axis, term, (colour, _, marker) in zip(axes, terms, SERIES, strict=False):
        for y, i in enumerate(rows):
            if i not in values[term]:
                continue
            right, wrong = values[term][i]
            axis.plot([right, wrong], [y, y], color=colour, linewidth=1)
            axis.plot([wrong], [y], linestyle="none", marker=marker, markersize=5, color=colour, markerfacecolor="white")
            axis.plot([right], [y], linestyle="none", marker=marker, markersize=3.2, color=colour)
        axis.set_xlabel(f"mean weight on {shown(term)}")
        axis.grid(axis="y", color=LIGHT, linewidth=0.4)
        axis.tick_params(axis="y", length=0)
        axis.margins(x=0.08)
        axis.update_datalim([(0.0, 0.0)])  # from zero: a small difference is to look small
    axes[0].set_yticks(range(len(rows)), [shown(board.selection.labels[i]) for i in rows])
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    _right_wrong_legend(figure)
    return figure


def flip_curves(board: Leaderboard) -> dict[int, dict[str, dict[int, list[float]]]]:
    """Label -> task -> epoch, from 1 -> AUROC of each repeat; of those that weigh samples of a batch differently."""
    found: dict[int, dict[str, dict[int, list[float]]]] = {}
    term = "ce"
    for i in board.order:
        by_task: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for task, epochs, _ in histories(board, i):
            for epoch in epochs:
                auroc = epoch.weights[term].flipped_auroc if term in epoch.weights else None
                if auroc is not None:
                    by_task[task][epoch.epoch + 1].append(auroc)
        told = {value for curves in by_task.values() for values in curves.values() for value in values}
        if told and told != {0.5}:  # exactly a half: all samples weigh the same
            found[i] = by_task
    return found


def draw_flips(board: Leaderboard) -> Figure | str:
    """AUROC with which a low weight on the label term finds flipped labels, over epochs; thin lines are tasks."""
    found = flip_curves(board)
    if not found:
        return "no labels were flipped on purpose, or no strategy weighs samples of a batch differently"
    figure, panels = small_multiples(len(found))
    lowest = min(v for tasks in found.values() for curve in tasks.values() for values in curve.values() for v in values)
    for panel, (i, by_task) in zip(panels, found.items(), strict=True):
        _flip_curves(panel, by_task)
        panel.set_title(wrapped(board.selection.labels[i]), fontsize=7)
        panel.set_ylim(min(0.4, lowest - 0.02), 1.0)
        panel.locator_params(axis="x", integer=True, nbins=5)
        panel.locator_params(axis="y", nbins=4)
    figure.supxlabel("epoch", fontsize=8)
    figure.supylabel("detection AUROC", fontsize=8)
    return figure


def _flip_curves(panel: Axes, by_task: dict[str, dict[int, list[float]]]) -> None:
    colour, line, marker = SERIES[0]
    panel.axhline(0.5, color=GREY, linewidth=0.8, linestyle=":")
    together: dict[int, list[float]] = defaultdict(list)
    for curve in by_task.values():
        xs = sorted(curve)
        panel.plot(xs, [float(np.mean(curve[x])) for x in xs], color=LIGHT, linewidth=0.8, zorder=0)
        for x in xs:
            together[x].append(float(np.mean(curve[x])))
    xs = sorted(together)
    panel.plot(xs, [float(np.mean(together[x])) for x in xs], color=colour, linestyle=line, marker=marker, markersize=3)


def _term_legend(figure: Figure, terms: list[str]) -> None:
    handles = [
        Line2D([], [], color=colour, linestyle=line, marker=marker, markersize=3, label=shown(term))
        for term, (colour, line, marker) in zip(terms, SERIES, strict=False)
    ]
    figure.legend(handles=handles, loc="outside lower right", ncols=len(handles))


def _right_wrong_legend(figure: Figure) -> None:
    look: dict[str, Any] = {"linestyle": "none", "marker": "o", "color": "black"}
    figure.legend(
        handles=[
            Line2D([], [], markersize=3.2, label="teacher right", **look),
            Line2D([], [], markersize=5, markerfacecolor="white", label="teacher wrong", **look),
        ],
        loc="outside lower center",
        ncols=2,
    )


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
