"""Early stopping within the search of one cell: which epochs are too early for it, and Optuna's pruner for the rule.

The rule is `search.early_stopping` of the study; the pruners decide (`harness.plan.search`). A stopped trial is recorded as
`stopped`, is never scored on the report rows, and cannot win its search.

With one trial of a cell at a time (inline, and Ray while there are as many cells as slots) the same trials stop in every run.
Where several trials of a search run at once, what is stopped depends on which reports first.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from harness.study.schema import EarlyStopping

if TYPE_CHECKING:
    from harness.plan.plan import Plan
    from harness.records import TrialSpec


def grace_epochs(plan: Plan, spec: TrialSpec) -> int:
    """So many epochs every trial trains: beyond the warm-up of the learning rate, of this trial's strategy, and, so that all
    searches of a study stop by the same rule, of all its other strategies at their defaults.
    """
    from strategies import resolve

    rule = plan.study.search.early_stopping
    assert rule is not None
    epochs = spec.training.epochs
    own = resolve(spec.strategy)
    warm = [own.warm_up(own.settings(spec.settings), epochs), spec.training.warmup_fraction * epochs]
    warm += [cell.strategy.warm_up(cell.settings, epochs) for cell in plan.cells]
    return max(rule.grace_epochs, math.ceil(max(warm) - 1e-9))


def make_pruner(rule: EarlyStopping) -> Any:
    """Optuna's pruner for the rule. Its steps are epochs, counted from 1."""
    import optuna

    if rule.kind == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=rule.startup_trials)
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=rule.grace_epochs, reduction_factor=rule.reduction_factor)
