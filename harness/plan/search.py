"""The search of one cell: plain Optuna, asked and told. Both engines use it, so both try the same settings."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from harness.plan.early_stopping import make_pruner
from harness.plan.grid import grid_trials
from harness.plan.plan import Cell, Plan
from harness.seeds import derive_seed
from harness.study.schema import EarlyStopping
from strategies.space import Choice, IntRange, Range, Value

if TYPE_CHECKING:
    import optuna

STARTUP_TRIALS = 4
"""TPE draws at random until so many trials (the default counts) have ended well. Optuna's 10 would leave nothing to the model
in a small budget. It is no share of the budget: a study that is given more trials goes on with the same ones."""


class CellSearch:
    """Trial 0 is the default; the others come from the sampler.

    Deterministic: what it suggests follows from the results alone, whenever they come. Suggestion n is made when Optuna has
    been told how the trials up to n - `parallel` ended, in their order, and of no later one.
    """

    def __init__(
        self,
        space: Mapping[str, Range],
        defaults: Mapping[str, Any],
        sampler: Literal["tpe", "random", "grid"],
        seed: int,
        trials: int,
        early_stopping: EarlyStopping | None = None,
        parallel: int = 1,
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
        self._stops = early_stopping is not None
        pruner = optuna.pruners.NopPruner() if early_stopping is None else make_pruner(early_stopping)
        self._study = optuna.create_study(direction="maximize", sampler=made, pruner=pruner)
        self._reported: dict[int, int] = {}
        """Trial number -> its last epoch of which Optuna was told."""
        self._stopping: dict[int, int] = {}
        """Trial number -> epoch after which it is to stop."""
        self._running: dict[int, optuna.trial.Trial | None] = {}
        self._values: dict[int, dict[str, Value]] = {}
        self._scores: dict[int, float] = {}
        self._suggested: deque[int] = deque()
        """Numbers of the trials that nobody has asked for yet."""
        self._ended: dict[int, tuple[float | None, bool]] = {}
        """How trials ended of which Optuna has not been told yet, as an earlier one has not ended."""
        self._told = 0
        for _ in range(parallel):
            self._suggest()

    @classmethod
    def for_cell(cls, plan: Plan, cell: Cell) -> CellSearch:
        """The search that the plan gives a cell. Its seed does not depend on the strategy."""
        seed = derive_seed(plan.study.seed, cell.task.name, cell.repeat, "sampler")
        search = plan.study.search
        return cls(cell.space, cell.default_values, search.sampler, seed, cell.trials, search.early_stopping, search.parallel)

    def ask(self) -> tuple[int, dict[str, Value]] | None:
        """The next trial's number and values (none for trial 0); None when all have been asked for, or have to wait for the
        ends of others.
        """
        if not self._suggested:
            return None
        index = self._suggested.popleft()
        return index, self._values[index]

    def _suggest(self) -> None:
        if self._asked >= self._trials:
            return
        index, trial = self._asked, None
        values: dict[str, Value] = {}
        if index > 0:
            if self._grid is not None:
                point = next(self._grid, None)
                if point is None:  # the grid is smaller than the budget
                    self._trials = self._asked
                    return
                self._study.enqueue_trial(point)
            trial = self._study.ask(fixed_distributions=self._distributions)
            values = dict(trial.params)
        elif self._stops:  # the others are compared with it while it runs
            trial = self._running_default()
        self._asked += 1
        self._running[index] = trial
        self._values[index] = values
        self._suggested.append(index)

    def report(self, index: int, epoch: int, score: float, grace: int, epochs: int) -> bool:
        """A running trial's score after an epoch, counted from 1, of `epochs`; whether it is to stop here.

        Never trial 0, never in the first `grace` epochs, never after the last one, and never without early stopping. An epoch
        that was reported before (a resumed trial repeats it) is no news. A decision to stop stays: a trial that is lost before
        it has ended stops at the first epoch that it reports from there on.
        """
        trial = self._running[index]
        if not self._stops or trial is None or not math.isfinite(score):
            return False
        if epoch > self._reported.get(index, 0):
            self._reported[index] = epoch
            trial.report(score, epoch)
            behind = trial.should_prune()  # asked at every epoch: it also notes how far the trial has come
            if behind and index > 0 and grace <= epoch:
                self._stopping.setdefault(index, epoch)
        return self._stopping.get(index, epochs) <= epoch < epochs

    def tell(self, index: int, objective: float | None, stopped: bool = False) -> list[tuple[int, Any]]:
        """How a trial ended: its score, or None (or a value that is not finite) for a failure, or that it was `stopped` early.

        Returns the numbers of the trials of which Optuna was told now, and its FrozenTrials.
        """
        self._ended[index] = objective, stopped
        told = []
        while self._told in self._ended:
            told.append((self._told, self._tell(self._told, *self._ended.pop(self._told))))
            self._told += 1
            self._suggest()
        return told

    def _tell(self, index: int, objective: float | None, stopped: bool) -> Any:
        from optuna.trial import TrialState, create_trial

        trial = self._running.pop(index)
        score = objective if objective is not None and math.isfinite(objective) else None
        if score is not None and not stopped:
            self._scores[index] = score
        state = TrialState.FAIL if score is None else TrialState.COMPLETE
        if stopped:
            score, state = None, TrialState.PRUNED
        if trial is not None:
            return self._study.tell(trial, score, state)
        # not asked of Optuna: a default need not lie in the space, and what does is all that the sampler can use
        distributions = {key: self._distributions[key] for key in self._defaults}
        default = create_trial(state=state, value=score, params=self._defaults, distributions=distributions)
        self._study.add_trial(default)
        return default

    def _running_default(self) -> optuna.trial.Trial:
        """Trial 0 in Optuna. It is not asked for: a default need not lie in the space."""
        import optuna

        distributions = {key: self._distributions[key] for key in self._defaults}
        running = optuna.trial.TrialState.RUNNING
        self._study.add_trial(optuna.trial.create_trial(state=running, params=self._defaults, distributions=distributions))
        return optuna.trial.Trial(self._study, self._study.get_trials(deepcopy=False)[-1]._trial_id)

    def best(self) -> tuple[int, dict[str, Value]] | None:
        """Number and values of the best trial so far that trained to its end, the earliest of equals; None where none did."""
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
