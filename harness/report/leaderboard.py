"""All figures of the leaderboard, computed once; tables, plots and page only show them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.report.controls import AgainstControl, against_controls
from harness.report.costs import Costs, costs_of, equal_compute_scores
from harness.report.predictions import load_predictions
from harness.report.references import BASELINE, STUDENT_ALONE, find_strategy, reference_notes, teacher_scores
from harness.report.selection import Selection, select
from harness.stats.aggregate import (
    interquartile_mean,
    mean,
    normalise,
    probability_of_improvement,
    stratified_bootstrap,
    win_rates,
)
from harness.stats.bootstrap import draws_for, interval, two_sided_p
from harness.stats.mcnemar import mcnemar
from harness.stats.metrics import Array
from harness.stats.multiple import holm
from harness.stats.paired import sample_task
from harness.stats.power import minimum_detectable_effect
from harness.stats.ranks import Ranking, rank_strategies

REPEAT_DRAWS = 4000
"""For intervals that come from the repeats alone; no test rests on them."""


@dataclass(frozen=True)
class Estimate:
    """A figure per strategy with its 95 % interval. NaN where it is withheld."""

    value: Array  # [labels]
    low: Array
    high: Array

    @classmethod
    def of(cls, value: Array, samples: Array) -> Estimate:
        low, high = interval(samples)
        return cls(value, low, high)

    def without_interval(self) -> Estimate:
        """For one repeat: there is nothing to resample."""
        return Estimate(self.value, np.full_like(self.low, np.nan), np.full_like(self.high, np.nan))

    @classmethod
    def none(cls, labels: int) -> Estimate:
        return cls(*(np.full(labels, np.nan) for _ in range(3)))


@dataclass
class Leaderboard:
    """Arrays follow `selection.labels` and `selection.tasks`. Scores are fractions."""

    selection: Selection
    baseline: int | None
    """Index of plain KD (`fixed_alpha`); None where the study lacks it."""
    student: Array
    """[tasks] score of the student trained on labels alone; NaN where the study lacks it."""
    teacher: Array
    """[tasks] score of the best teacher."""
    task_mean: Array  # [labels, tasks]
    task_spread: Array  # [labels, tasks] standard deviation over repeats (n - 1); NaN with one repeat
    task_low: Array  # [labels, tasks]
    task_high: Array
    difference: Array  # [labels, tasks] to the baseline
    difference_low: Array
    difference_high: Array
    p: Array  # [labels, tasks] of the bootstrap, not adjusted
    p_holm: Array  # [labels, tasks] over the strategies of a task
    p_mcnemar: Array  # [labels, tasks] not adjusted
    detectable: Array  # [tasks] median over strategies
    mean_score: Estimate
    normalised: Estimate
    iqm: Estimate
    improvement: Estimate
    """Probability of improvement over the baseline."""
    gain: Estimate
    """Mean over tasks of the difference to the baseline; bootstrap over examples and repeats."""
    gain_p: Array
    gain_p_holm: Array
    controls: list[AgainstControl]
    test_draws: int
    """Draws that the tests and the intervals of scores and gains rest on."""
    normalised_scores: Array  # [labels, tasks, repeats]
    normalised_tasks: NDArray[np.bool_]  # [tasks] that enter normalised figures
    wins: Array  # [labels, labels]
    ranking: Ranking | None
    costs: Costs
    equal_compute: Array | None  # [labels] mean over tasks
    notes: list[str] = field(default_factory=list)

    @property
    def order(self) -> list[int]:
        """Strategies, best first; those with withheld averages last, in the study's order."""
        key = self.normalised.value if np.isfinite(self.normalised.value).any() else self.mean_score.value
        return sorted(range(len(key)), key=lambda i: (np.isnan(key[i]), -np.nan_to_num(key[i]), i))

    @property
    def baseline_label(self) -> str | None:
        return None if self.baseline is None else self.selection.labels[self.baseline]

    def significant(self, label: int, task: int) -> int:
        """1: better than plain KD at the 5 % level after Holm, -1: worse, 0: no evidence."""
        p = self.p_holm[label, task]
        return 0 if np.isnan(p) or p >= 0.05 else int(np.sign(self.difference[label, task]))


def make_leaderboard(path: Path | str, draws: int | None = None) -> Leaderboard:
    """Read a store and compute everything. Raises StoreError where there is nothing to report on.

    `draws`: of every bootstrap; left out, as many as the number of comparisons asks for.
    """
    selection = select(path)
    notes: list[str] = []
    labels, tasks = selection.labels, selection.tasks
    scores = selection.scores
    baseline = find_strategy(selection, BASELINE)
    alone = find_strategy(selection, STUDENT_ALONE)
    student = scores[alone].mean(-1) if alone is not None else np.full(len(tasks), np.nan)
    teacher = teacher_scores(selection)
    sampled = _Sampled(selection, baseline, draws or draws_for(len(labels) - 1))
    repeat_draws = draws or REPEAT_DRAWS
    normalised = normalise(scores, student, teacher)
    usable = np.isfinite(teacher - student) & (teacher - student >= 0.01)
    notes += reference_notes(selection, baseline, alone, usable, teacher, student)
    mean_score = Estimate.of(mean(scores), sampled.means)
    chosen = normalised[:, usable]
    empty = Estimate.none(len(labels))
    resampled = {
        statistic: Estimate.of(statistic(chosen), stratified_bootstrap(chosen, statistic, repeat_draws, 1))
        if usable.any()
        else empty
        for statistic in (mean, interquartile_mean)
    }
    if selection.repeats == 1:
        resampled = {statistic: found.without_interval() for statistic, found in resampled.items()}
    gain, gain_p = empty, np.full(len(labels), np.nan)
    improvement = empty
    if baseline is not None:
        differences = sampled.means - sampled.means[:, [baseline]]
        gain = Estimate.of(scores.mean((1, 2)) - scores[baseline].mean(), differences)
        gain_p = two_sided_p(differences)
        gain_p[baseline] = np.nan
        improvement = _improvement(scores, baseline, repeat_draws)
    ranking = None
    whole = selection.complete and not np.isnan(scores).any()
    if not whole:
        notes.append("Cells are missing: the averages of the strategies concerned and all ranks are withheld.")
    elif len(labels) >= 3 and len(tasks) >= 2:
        ranking = rank_strategies(scores.mean(-1))
    costs = costs_of(selection, baseline)
    spread = scores.std(-1, ddof=1) if selection.repeats > 1 else np.full(scores.shape[:2], np.nan)
    return Leaderboard(
        selection=selection,
        baseline=baseline,
        student=student,
        teacher=teacher,
        task_mean=_mean_of_shown(selection),
        task_spread=spread,
        task_low=sampled.low,
        task_high=sampled.high,
        difference=scores.mean(-1) - scores[baseline].mean(-1) if baseline is not None else np.full(scores.shape[:2], np.nan),
        difference_low=sampled.difference_low,
        difference_high=sampled.difference_high,
        p=sampled.p,
        p_holm=np.stack([holm(sampled.p[:, t]) for t in range(len(tasks))], axis=1),
        p_mcnemar=sampled.p_mcnemar,
        detectable=sampled.detectable,
        mean_score=mean_score,
        normalised=resampled[mean],
        iqm=resampled[interquartile_mean],
        improvement=improvement,
        gain=gain,
        gain_p=gain_p,
        gain_p_holm=holm(gain_p),
        controls=against_controls(selection, sampled.means),
        test_draws=len(sampled.means),
        normalised_scores=normalised,
        normalised_tasks=usable,
        wins=win_rates(scores),
        ranking=ranking,
        costs=costs,
        equal_compute=equal_compute_scores(selection),
        notes=notes,
    )


class _Sampled:
    """Bootstrap of every task; NaN where predictions are missing."""

    def __init__(self, selection: Selection, baseline: int | None, draws: int) -> None:
        shape = (len(selection.labels), len(selection.tasks))
        self.means = np.zeros((draws, shape[0]))
        """[draws, labels]: mean over tasks."""
        self.low, self.high, self.difference_low, self.difference_high = (np.full(shape, np.nan) for _ in range(4))
        self.p, self.p_mcnemar = np.full(shape, np.nan), np.full(shape, np.nan)
        self.detectable = np.full(shape[1], np.nan)
        for t, task in enumerate(selection.tasks):
            found = load_predictions(selection, task)
            if found is None:
                self.means += np.nan
                continue
            sample = sample_task(
                found.metric, found.labels, found.predicted, found.present, found.classes, draws, found.seeds, shape[1]
            )
            self.means += sample.pooled / shape[1]
            self.low[:, t], self.high[:, t] = sample.intervals
            if baseline is None:
                continue
            differences = sample.differences(baseline)
            others = np.arange(shape[0]) != baseline
            self.difference_low[:, t], self.difference_high[:, t] = interval(differences)
            self.p[others, t] = two_sided_p(differences)[others]
            effects = minimum_detectable_effect(differences[:, others])
            effects = effects[np.isfinite(effects) & (effects > 0)]
            if len(effects):
                self.detectable[t] = float(np.median(effects))
            right = found.predicted == found.labels
            for s in np.flatnonzero(others & found.present.all(1) & found.present[baseline].all()):
                self.p_mcnemar[s, t] = mcnemar(right[s], right[baseline]).p


def _improvement(scores: Array, baseline: int, draws: int) -> Estimate:
    repeats = scores.shape[-1]
    own, its = (np.random.default_rng(seed).integers(0, repeats, (draws, *scores.shape[1:])) for seed in (2, 3))
    where = np.arange(scores.shape[1])[None, :, None]
    its_runs = scores[baseline][where, its]
    samples = np.stack([probability_of_improvement(row[where, own], its_runs) for row in scores], axis=1)
    value = probability_of_improvement(scores, scores[baseline])
    value[baseline] = np.nan
    samples[:, baseline] = np.nan
    return Estimate.of(value, samples) if repeats > 1 else Estimate.of(value, samples).without_interval()


def _mean_of_shown(selection: Selection) -> Array:
    """Mean over the repeats that there are: a cell that lacks some is shown, marked, and enters no average."""
    shown = selection.shown_scores
    count = np.isfinite(shown).sum(-1)
    return np.where(count > 0, np.nansum(shown, -1) / np.maximum(count, 1), np.nan)
