"""Statistics of the report: pure functions on arrays and frames, deterministic, each checked against another computation.

Scores are arrays [strategies, tasks, repeats]; NaN where a cell is missing. Fractions, not points, unless a name says so.
"""

from __future__ import annotations

LEVEL = 0.05
"""Of all marks and verdicts. Here, without numpy, as plans say it at once."""
EXACT_UNITS, RANDOM_FLIPS = 15, 20_000
"""Up to so many units all sign-flips are made; of more units, so many at random, of which the observed signs are one."""


def smallest_p(units: int) -> float:
    """The least two-sided p that flips of so many units can give: that of all differences on one side."""
    return 1.0 if units < 1 else max(2.0 ** (1 - units), 1 / (RANDOM_FLIPS + 1))
