"""The search of one cell: plain Optuna, asked and told. Both engines use it, so both try the same settings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.plan import Cell, Plan, grid_levels
from harness.seeds import derive_seed
from strategies.space import Choice, IntRange, Range, Value

if TYPE_CHECKING:
    import optuna


class CellSearch:
    """Trial 0 is the default; the others come from the sampler. Deterministic while each answer precedes the next question."""

    def __init__(self, space: Mapping[str, Range], defaults: Mapping[str, Value], sampler: str, seed: int, trials: int) -> None:
        """`defaults`: trial 0's value of every key of `space`. `sampler`: tpe, random or grid."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = dict(space)
        self._defaults = dict(defaults)
        self._distributions = {key: _distribution(space) for key, space in self._space.items()}
        self._trials = trials
        self._asked = 0
        self._grid = iter(_grid(self._space, trials - 1)) if sampler == "grid" else None
        self._study = optuna.create_study(direction="maximize", sampler=_sampler(sampler, seed, trials))
        self._running: dict[int, optuna.trial.Trial | None] = {}
        self._values: dict[int, Mapping[str, Value]] = {}
        self._scores: dict[int, float] = {}

    @classmethod
    def for_cell(cls, plan: Plan, cell: Cell) -> CellSearch:
        """The search that the plan gives a cell."""
        holder = {**{f"training.{k}": v for k, v in cell.training.model_dump().items()}, **cell.settings.model_dump()}
        seed = derive_seed(plan.study.seed, cell.task.name, cell.repeat, "sampler")
        defaults = {key: holder[key] for key in cell.space}
        return cls(cell.space, defaults, plan.study.search.sampler, seed, cell.trials)

    def ask(self) -> tuple[int, Mapping[str, Value]] | None:
        """The next trial's number and values (none for trial 0); None when all have been asked for."""
        if self._asked >= self._trials:
            return None
        index, values, trial = self._asked, {}, None
        if index > 0:
            if self._grid is not None:
                values = next(self._grid, {})
                if not values:  # the grid is smaller than the budget
                    self._asked = self._trials
                    return None
                self._study.enqueue_trial(values)
            trial = self._study.ask(fixed_distributions=self._distributions)
            values = dict(trial.params)
        self._asked += 1
        self._running[index] = trial
        self._values[index] = values
        return index, values

    def tell(self, index: int, objective: float | None) -> None:
        """How a trial ended: its score, or None (or a value that is not finite) for a failure."""
        import optuna

        trial = self._running.pop(index)
        failed = objective is None or not math.isfinite(objective)
        if not failed:
            self._scores[index] = float(objective)  # type: ignore[arg-type]
        if trial is not None:
            if failed:
                self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                self._study.tell(trial, objective)
        elif not failed and self._defaults_in_space():
            self._study.add_trial(
                optuna.trial.create_trial(params=self._defaults, distributions=self._distributions, value=objective)
            )

    def best(self) -> tuple[int, Mapping[str, Value]] | None:
        """Number and values of the best trial so far, the earliest of equals; None where all failed."""
        if not self._scores:
            return None
        index = max(self._scores, key=lambda i: (self._scores[i], -i))
        return index, self._values[index]

    def export(self, storage: str, name: str) -> None:
        """Copy the finished trials into an Optuna storage, e.g. `sqlite:///optuna.db`, for optuna-dashboard."""
        import optuna

        study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
        known = len(study.get_trials(deepcopy=False))
        study.add_trials([trial for trial in self._study.get_trials(deepcopy=False) if trial.state.is_finished()][known:])

    def _defaults_in_space(self) -> bool:
        return all(
            self._distributions[key]._contains(self._distributions[key].to_internal_repr(value))
            for key, value in self._defaults.items()
        )


def _sampler(name: str, seed: int, trials: int) -> optuna.samplers.BaseSampler:
    import optuna

    if name == "tpe":
        # with a handful of trials, Optuna's default of 10 random ones would leave nothing to the model
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(2, min(10, trials // 3)))
    return optuna.samplers.RandomSampler(seed=seed)


def _distribution(space: Range) -> Any:
    import optuna

    if isinstance(space, Choice):
        return optuna.distributions.CategoricalDistribution(tuple(space.values))
    if isinstance(space, IntRange):
        return optuna.distributions.IntDistribution(space.low, space.high, log=space.log)
    return optuna.distributions.FloatDistribution(space.low, space.high, log=space.log)


def _grid(space: Mapping[str, Range], points: int) -> list[dict[str, Value]]:
    """At most `points` points, spread over the coarsest full grid that has as many."""
    if not space or points < 1:
        return []
    levels = 1
    while True:
        axes = [grid_levels(one, levels) for one in space.values()]
        full = math.prod(len(axis) for axis in axes)
        if full >= points or levels >= points:
            break
        levels += 1
    combinations = [dict(zip(space, values, strict=True)) for values in itertools.product(*axes)]
    if full <= points:
        return combinations
    return [combinations[round(i * (full - 1) / max(1, points - 1))] for i in range(points)]
