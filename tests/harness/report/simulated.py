"""Studies whose true differences are known, to see how often the report's verdicts are right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from harness.report.sampled import Sampled
from harness.stats.paired import Seeds, sample_task

EASE, CHANCE = 0.9, 0.35
"""Mean margin of an example, whose difficulty has a standard deviation of 1; and that of what a run errs on it by chance."""


@dataclass(frozen=True)
class Truth:
    """Strategies against the first, which is plain KD."""

    gains: tuple[float, ...] = (0.0,)
    """True differences in accuracy, fractions, the same on all tasks."""
    tasks: int = 4
    repeats: int = 3
    rows: int = 300
    spread: float = 0.05
    """Of a run as a whole: 0.15 is a standard deviation of about 4 points between runs."""
    shared: float = 0.0
    """Share of it that all tasks of a repeat have in common: correlated tasks."""
    same_rows: bool = False
    """All tasks are of one data set."""

    @property
    def accuracy(self) -> float:
        return float(norm.cdf(EASE / self._scale))

    @property
    def _scale(self) -> float:
        return float(np.sqrt(1 + self.spread**2 + CHANCE**2))

    def study(self, seed: int, draws: int = 400) -> Sampled:
        rng = np.random.default_rng(seed)
        shifts = np.array([norm.ppf(self.accuracy + gain) * self._scale - EASE for gain in (0.0, *self.gains)])
        strategies = len(shifts)
        common = rng.normal(0, self.spread * self.shared**0.5, (strategies, self.repeats))
        samples, difficulty = [], None
        for task in range(self.tasks):
            if difficulty is None or not self.same_rows:
                labels, difficulty = rng.integers(0, 2, self.rows), rng.normal(EASE, 1, self.rows)
            runs = common + rng.normal(0, self.spread * (1 - self.shared) ** 0.5, (strategies, self.repeats))
            chance = rng.normal(0, CHANCE, (strategies, self.repeats, self.rows))
            margins = difficulty + shifts[:, None, None] + runs[:, :, None] + chance
            predicted = np.where(margins > 0, labels, 1 - labels)
            seeds = Seeds(1000 * seed + (0 if self.same_rows else task), 1000 * seed + 500 + task)
            present = np.ones((strategies, self.repeats), np.bool_)
            samples.append(sample_task("accuracy", labels, predicted, present, 2, draws, seeds, self.tasks))
        scores = np.stack([sample.scores for sample in samples], axis=1)
        sets = np.zeros(self.tasks, np.int64) if self.same_rows else np.arange(self.tasks)
        names = tuple(f"task{t}" for t in range(self.tasks))
        return Sampled(tuple(samples), scores, names, sets, np.ones(self.tasks, np.bool_), draws)
