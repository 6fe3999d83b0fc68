"""What the searches did: best so far over trials, and the response to each hyper-parameter."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.records import TrialRecord
from harness.report.leaderboard import Leaderboard
from harness.report.plots.style import BLUE, GREY, LIGHT, VERMILLION, small_multiples, wrapped
from harness.stats.aggregate import best_so_far
from harness.stats.metrics import Array

LEAST_TRIALS = 4
"""Of a search whose course is drawn: of fewer, the line says nothing that the table does not."""
PANELS = 20
"""Of one figure of responses."""
SHARED = ("learning_rate", "temperature", "batch_size", "epochs", "weight_decay", "warmup_fraction")


def draw_progress(board: Leaderboard) -> Figure | str:
    """Best selection score so far, mean over tasks, against trials; each strategy before all others in grey."""
    found = {i: curves for i in board.order if (curves := _curves(board, i)) is not None}
    if not found:
        return f"no search has {LEAST_TRIALS} trials or more"
    figure, panels = small_multiples(len(found))
    lines = {i: curves.mean(0) * 100 for i, curves in found.items()}
    every = np.concatenate([curves.ravel() for curves in found.values()]) * 100
    low, high = float(np.nanmin(every)), float(np.nanmax(every))
    margin = max(0.05 * (high - low), 0.2)
    for panel, (i, curves) in zip(panels, found.items(), strict=True):
        trials = np.arange(1, curves.shape[1] + 1)
        for other in lines.values():
            panel.plot(np.arange(1, len(other) + 1), other, color=LIGHT, linewidth=0.6, zorder=0)
        if board.baseline in lines and i != board.baseline:
            base = lines[board.baseline]
            panel.plot(np.arange(1, len(base) + 1), base, color="black", linewidth=0.9, linestyle="--")
        if len(curves) > 1:
            panel.fill_between(trials, curves.min(0) * 100, curves.max(0) * 100, color=BLUE, alpha=0.22, linewidth=0)
        panel.plot(trials, lines[i], color=BLUE, linewidth=1.5)
        panel.set_title(wrapped(board.selection.labels[i]), fontsize=7)
        panel.set_ylim(low - margin, high + margin)
        panel.locator_params(axis="x", integer=True, nbins=5)
        panel.locator_params(axis="y", nbins=4)
    figure.supxlabel("trials of the search", fontsize=8)
    figure.supylabel("best score so far", fontsize=8)
    return figure


def _curves(board: Leaderboard, label: int) -> Array | None:
    """[repeats, trials], mean over tasks; None where a search has too few trials, or a task has none that succeeded."""
    cells: dict[tuple[int, str], list[TrialRecord]] = defaultdict(list)
    for record in board.selection.records:
        if record.spec.label == board.selection.labels[label] and record.spec.purpose == "search":
            cells[record.spec.repeat, record.spec.task.name].append(record)
    repeats = sorted({repeat for repeat, _ in cells})
    wanted = [(repeat, task) for repeat in repeats for task in board.selection.tasks]
    if not wanted or any(len(cells.get(cell, [])) < LEAST_TRIALS for cell in wanted):
        return None
    length = min(len(cells[cell]) for cell in wanted)
    values = []
    for cell in wanted:
        trials = sorted(cells[cell], key=lambda r: r.spec.index)[:length]
        values.append(best_so_far(np.array([math.nan if r.objective is None else r.objective for r in trials])))
    curves = np.array(values).reshape(len(repeats), len(board.selection.tasks), length).mean(1)
    curves = curves[~np.isnan(curves).all(1)]
    return curves if len(curves) else None


def draw_responses(board: Leaderboard) -> list[Figure] | str:
    """For each searched hyper-parameter: selection score of the trials, less their cell's mean."""
    panels = _responses(board)
    if not panels:
        return "no hyper-parameter was varied"
    figures = []
    for start in range(0, len(panels), PANELS):
        some = panels[start : start + PANELS]
        figure, axes = small_multiples(len(some), width=1.9, height=1.5)
        for axis, (title, name, values, gains) in zip(axes, some, strict=True):
            _response(axis, name, values, gains)
            axis.set_title(wrapped(title, 26), fontsize=7)
            axis.set_xlabel(wrapped(name, 26), fontsize=7)
        figure.supylabel("points over search mean", fontsize=8)
        figures.append(figure)
    return figures


def _responses(board: Leaderboard) -> list[tuple[str, str, list[object], Array]]:
    """(strategy or "all strategies", parameter, values, gains in points), shared parameters first."""
    cells: dict[tuple[str, str, int], list[TrialRecord]] = defaultdict(list)
    for record in board.selection.records:
        if record.spec.purpose == "search" and record.objective is not None:
            cells[record.spec.label, record.spec.task.name, record.spec.repeat].append(record)
    collected: dict[tuple[str, str], list[tuple[object, float]]] = defaultdict(list)
    for (label, _, _), records in cells.items():
        centre = float(np.mean([r.objective for r in records if r.objective is not None]))
        for record in records:
            gain = 100 * ((record.objective or 0.0) - centre)
            for name in SHARED:
                collected["all strategies", name].append((getattr(record.spec.training, name), gain))
            for name, value in record.spec.settings.items():
                if isinstance(value, bool | int | float | str):
                    collected[label, name].append((value, gain))
    order = {"all strategies": -1} | {board.selection.labels[i]: place for place, i in enumerate(board.order)}
    chosen = []
    for (label, name), pairs in sorted(collected.items(), key=lambda item: (order[item[0][0]], item[0][1])):
        values = [value for value, _ in pairs]
        if len({str(value) for value in values}) > 1:
            chosen.append((label, name, values, np.array([gain for _, gain in pairs])))
    return chosen


def _response(axis: Axes, name: str, values: list[object], gains: Array) -> None:
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    names = sorted({str(value) for value in values})
    x = np.array([float(str(value)) for value in values]) if numeric else np.array([names.index(str(v)) for v in values], float)
    axis.axhline(0, color=GREY, linewidth=0.6)
    axis.plot(x, gains, linestyle="none", marker="o", markersize=2.2, color=BLUE, alpha=0.35, markeredgewidth=0)
    if numeric and _on_log_scale(name, x):
        axis.set_xscale("log")
        _few_ticks(axis, x)
    elif numeric:
        axis.locator_params(axis="x", nbins=4)
    centres, medians = _running_median(x, gains)
    axis.plot(centres, medians, color=VERMILLION, linewidth=1.4, marker="s", markersize=2.5)
    if not numeric:
        axis.set_xticks(range(len(names)), [wrapped(name, 10) for name in names])
        axis.set_xlim(-0.5, len(names) - 0.5)
    axis.locator_params(axis="y", nbins=4)
    # one wild trial must not squeeze the others into a line
    low, high = np.quantile(gains, [0.02, 0.98])
    room = max(0.15 * (high - low), 0.1)
    axis.set_ylim(low - room, high + room)


def _on_log_scale(name: str, x: Array) -> bool:
    """Rates and decays, and whatever else crowds at the low end of a wide range."""
    low, middle, high = np.quantile(x, [0, 0.5, 1])
    if low <= 0 or high / low < 4:
        return False
    return "rate" in name or "decay" in name or (high / low >= 20 and (middle - low) / (high - low) < 0.15)


def _few_ticks(axis: Axes, x: Array) -> None:
    """Decades, at most three; the ends where fewer than two lie in the range. A narrow panel holds no more."""
    decades = np.arange(math.ceil(math.log10(x.min()) - 1e-9), math.floor(math.log10(x.max()) + 1e-9) + 1)
    ticks = 10.0 ** decades[:: max(1, math.ceil(len(decades) / 3))] if len(decades) > 1 else np.array([x.min(), x.max()])
    axis.set_xticks(ticks, [f"{tick:.0e}".replace("e-0", "e\N{MINUS SIGN}").replace("e+0", "e") for tick in ticks])
    axis.minorticks_off()


def _running_median(x: Array, y: Array) -> tuple[Array, Array]:
    """Medians at each value where there are few, else in at most 6 bins of about equal count (never two at one value)."""
    distinct = np.unique(x)
    if len(distinct) <= 6:
        return distinct, np.array([np.median(y[x == value]) for value in distinct])
    edges = np.unique(np.quantile(x, np.linspace(0, 1, min(6, max(2, len(x) // 4)) + 1)))
    number = np.searchsorted(edges[1:-1], x, side="left")
    present = np.unique(number)
    return np.array([np.median(x[number == n]) for n in present]), np.array([np.median(y[number == n]) for n in present])
