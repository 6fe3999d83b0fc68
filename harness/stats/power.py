"""How small an effect could have been seen, and how many repeats one of a given size needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.stats import LEVEL, smallest_p
from harness.stats.bootstrap import widened
from harness.stats.metrics import Array

POWER = 0.8
MOST_REPEATS = 10**6
"""What these do not show is not for want of repeats."""


def minimum_detectable_effect(differences: Array, alpha: float = LEVEL, power: float = POWER) -> Array:
    """The true difference that a two-sided test of level `alpha` finds with probability `power`.

    `differences` [draws, ...]: a bootstrap of the observed difference. An effect is found where its draws leave 0 outside
    their central 1 - alpha; it is found with probability `power` where it lies a further quantile `power` away. For normal
    draws this is the textbook (z[1 - alpha / 2] + z[power]) x standard error.
    """
    low, middle, high, powerful, powerless = np.quantile(differences, [alpha / 2, 0.5, 1 - alpha / 2, power, 1 - power], axis=0)
    return np.asarray((high - low) / 2 + np.fmax(powerful - middle, middle - powerless))


@dataclass(frozen=True)
class Spread:
    """Variances of an observed mean difference, by where they come from."""

    examples: float
    """Of the rows that were reported on; further repeats do not lessen it."""
    repeat: float
    """Of one repeat; of N repeats it is an N-th."""
    tasks: int = 1
    """That tell `repeat`: flips count all of them alike, tasks x (repeats - 1) degrees of freedom."""
    tasks_of_interval: float | None = None
    """The same to the interval, fewer where tasks differ in `repeat` (Welch, Satterthwaite). Not given: all."""
    units: int = 1
    """Of one repeat, for sign-flips."""

    def detectable(self, repeats: int, level: float, power: float = POWER) -> float:
        """The difference that has a mark with this power; infinite where flips allow no p below 5 %.

        A mark needs both: flips, which find what a t test of `level` on the runs of all tasks finds, and an interval of 5 %
        that leaves 0 out.
        """
        from scipy.special import ndtri

        if smallest_p(self.units * repeats) >= LEVEL or (repeats < 2 and self.repeat > 0):
            return float("inf")
        error = (self.examples + self.repeat / repeats) ** 0.5

        def found_at(level: float, tasks: float) -> float:
            z = ndtri([1 - level / 2, power])
            return float(widened(z, self.examples, self.repeat / repeats, max(tasks * (repeats - 1), 1)).sum() * error)

        return max(found_at(level, self.tasks), found_at(LEVEL, self.tasks_of_interval or self.tasks))

    def repeats_for(self, effect: float, level: float, power: float = POWER) -> int | None:
        """So many repeats show `effect`; None where MOST_REPEATS do not, for want of rows."""
        few, many = 1, MOST_REPEATS
        if not self.detectable(many, level, power) <= effect:
            return None
        while few < many:
            middle = (few + many) // 2
            few, many = (few, middle) if self.detectable(middle, level, power) <= effect else (middle + 1, many)
        return few
