"""The grid sampler's points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

from strategies.space import Choice, FloatRange, Range, Value


def grid_points(space: Mapping[str, Range], points: int) -> list[dict[str, Value]]:
    """At most `points` points of a full grid over `space`.

    A choice has all its values; a float or integer range is split into n levels, both ends included, evenly in its scale. n is
    the smallest number for which the grid has at least `points` points; of a larger grid, every k-th point is taken, from the
    first to the last. A space that has fewer points (few values, no others) gives fewer.
    """
    if not space or points < 1:
        return []
    levels = 1
    axes = _axes(space, levels)
    # a range of integers stops growing, so that not every number of points can be reached
    while math.prod(map(len, axes)) < points and levels < points:
        levels += 1
        axes = _axes(space, levels)
    grid = [dict(zip(space, values, strict=True)) for values in itertools.product(*axes)]
    if len(grid) <= points:
        return grid
    if points == 1:
        return [grid[len(grid) // 2]]
    return [grid[round(i * (len(grid) - 1) / (points - 1))] for i in range(points)]


def grid_trials(space: Mapping[str, Range], defaults: Mapping[str, Any], trials: int) -> list[dict[str, Value]]:
    """What a cell of `trials` trials tries after trial 0, the default; fewer where the grid is smaller than the budget."""
    return [point for point in grid_points(space, trials) if point != defaults][: trials - 1]


def _axes(space: Mapping[str, Range], levels: int) -> list[list[Value]]:
    return [_axis(one, levels) for one in space.values()]


def _axis(space: Range, levels: int) -> list[Value]:
    if isinstance(space, Choice):
        return list(space.values)
    steps = [i / (levels - 1) for i in range(levels)] if levels > 1 else [0.5]
    if space.log:
        values = [space.low * (space.high / space.low) ** step for step in steps]
    else:
        values = [space.low + (space.high - space.low) * step for step in steps]
    if levels > 1:
        values[-1] = space.high  # not a rounding error above it
    if isinstance(space, FloatRange):
        return list(dict.fromkeys(values))
    return list(dict.fromkeys(round(value) for value in values))
