"""The search of one cell: plain Optuna, asked and told. Both engines use it, so both try the same settings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from harness.grid import grid_trials
from harness.plan import Cell, Plan
from harness.seeds import derive_seed
from strategies.space import Choice, IntRange, Range, Value

if TYPE_CHECKING:
    import optuna

STARTUP_TRIALS = 4
"""TPE draws at random until so many trials (the default counts) have ended well. Optuna's 10 would leave nothing to the model
in a small budget. It is no share of the budget: a study that is given more trials goes on with the same ones."""


class CellSearch:
    """Trial 0 is the default; the others come from the sampler.

    Deterministic while each answer comes before the next question: told the same results, it asks the same questions.
    """

    def __init__(
        self,
        space: Mapping[str, Range],
        defaults: Mapping[str, Any],
        sampler: Literal["tpe", "random", "grid"],
        seed: int,
        trials: int,
    ) -> None:
        """`defaults`: trial 0's value of every key of `space`; it may lie outside of its range."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._defaults = {key: defaults[key] for key in space if _contains(space[key], defaults[key])}
        self._distributions = {key: _distribution(one) for key, one in space.items()}
        self._trials = trials if space else 1
        self._asked = 0
        self._grid: Iterator[dict[str, Value]] | None = None
        if sampler == "grid":
            self._grid = iter(grid_trials(space, defaults, trials))
        made = (
            optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
            if sampler == "tpe"
            else optuna.samplers.RandomSampler(seed=seed)
        )
        self._study = optuna.create_study(direction="maximize", sampler=made)
        self._running: dict[int, optuna.trial.Trial | None] = {}
        self._values: dict[int, dict[str, Value]] = {}
        self._scores: dict[int, float] = {}

    @classmethod
    def for_cell(cls, plan: Plan, cell: Cell) -> CellSearch:
        """The search that the plan gives a cell. Its seed does not depend on the strategy."""
        seed = derive_seed(plan.study.seed, cell.task.name, cell.repeat, "sampler")
        return cls(cell.space, cell.default_values, plan.study.search.sampler, seed, cell.trials)

    def ask(self) -> tuple[int, dict[str, Value]] | None:
        """The next trial's number and values (none for trial 0); None when all have been asked for."""
        if self._asked >= self._trials:
            return None
        index, trial = self._asked, None
        values: dict[str, Value] = {}
        if index > 0:
            if self._grid is not None:
                point = next(self._grid, None)
                if point is None:  # the grid is smaller than the budget
                    self._trials = self._asked
                    return None
                self._study.enqueue_trial(point)
            trial = self._study.ask(fixed_distributions=self._distributions)
            values = dict(trial.params)
        self._asked += 1
        self._running[index] = trial
        self._values[index] = values
        return index, values

    def tell(self, index: int, objective: float | None) -> Any:
        """How a trial ended: its score, or None (or a value that is not finite) for a failure. Returns Optuna's FrozenTrial."""
        from optuna.trial import TrialState, create_trial

        trial = self._running.pop(index)
        score = objective if objective is not None and math.isfinite(objective) else None
        if score is not None:
            self._scores[index] = score
        state = TrialState.FAIL if score is None else TrialState.COMPLETE
        if trial is not None:
            return self._study.tell(trial, score, state)
        # not asked of Optuna: a default need not lie in the space, and what does is all that the sampler can use
        distributions = {key: self._distributions[key] for key in self._defaults}
        default = create_trial(state=state, value=score, params=self._defaults, distributions=distributions)
        self._study.add_trial(default)
        return default

    def best(self) -> tuple[int, dict[str, Value]] | None:
        """Number and values of the best trial so far, the earliest of equals; None where all failed."""
        if not self._scores:
            return None
        index = max(self._scores, key=lambda i: (self._scores[i], -i))
        return index, self._values[index]


def _contains(space: Range, value: Any) -> bool:
    if isinstance(space, Choice):
        return value in space.values
    return isinstance(value, int | float) and space.low <= value <= space.high


def _distribution(space: Range) -> Any:
    import optuna

    if isinstance(space, Choice):
        return optuna.distributions.CategoricalDistribution(tuple(space.values))
    if isinstance(space, IntRange):
        return optuna.distributions.IntDistribution(space.low, space.high, log=space.log)
    return optuna.distributions.FloatDistribution(space.low, space.high, log=space.log)
