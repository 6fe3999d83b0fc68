"""All figures of the leaderboard, computed once; tables, plots and page only show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.report.admission import Admission, admitted
from harness.report.costs import Costs, costs_of, equal_compute_scores
from harness.report.measured import DRAWS, ClassScores, Measured, flips_found, gains_by_noise, measure, scores_of_classes
from harness.report.predictions import load_predictions
from harness.report.references import STUDENT_ALONE, find_strategy, reference_notes, teacher_scores
from harness.report.sampled import Estimate, Sampled, further_splits, sample_tasks
from harness.report.selection import Selection, select
from harness.report.verdicts import AgainstControls, Comparison, against_controls, explore, judge
from harness.stats import LEVEL
from harness.stats.aggregate import LEAST_GAP, interquartile_mean, mean, normalise, probability_of_improvement, win_rates
from harness.stats.bootstrap import draws_for
from harness.stats.metrics import Array
from harness.stats.multiple import holm
from harness.stats.ranks import Ranking, RankRange, rank_ranges, rank_strategies
from harness.study.comparisons import BASELINE, ComparisonsSpec, Families, ProtocolSpec, families


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
    p: Array  # [labels, tasks] of the draws, not adjusted
    p_holm: Array  # [labels, tasks] over the primary family; NaN for who is not in it
    p_mcnemar: Array  # [labels, tasks] not adjusted; NaN with several repeats
    detectable: Array  # [tasks] at 5 %, median over the primary family
    detectable_corrected: Array  # [tasks] at the level of Holm's first step
    admission: Admission
    mean_score: Estimate
    normalised: Array  # [labels] mean over the tasks that can be normalised
    iqm: Array
    improvement: Array  # [labels] probability of improvement over the baseline
    gain: Estimate
    """Mean over tasks of the difference to the baseline."""
    gain_weighted: Estimate
    """The same with each task weighed by the precision of its differences."""
    declared: Families
    margin: float  # points
    comparisons: list[Comparison | None]
    """[labels], to the baseline; those outside the primary family without correction and verdict. None for the baseline."""
    controls: list[AgainstControls]
    equal_rows: list[AgainstControls]
    """Strategies with a meta set against plain KD without its rows."""
    test_draws: int
    """Draws that the tests and the intervals of scores and gains rest on."""
    units: int
    """Data sets x repeats: what sign-flips turn."""
    normalised_scores: Array  # [labels, tasks, repeats]
    normalised_tasks: NDArray[np.bool_]  # [tasks] that enter normalised figures
    wins: Array  # [labels, labels]
    ranking: Ranking | None
    """Over data sets."""
    rank_ranges: list[RankRange] | None
    """[labels], over the tasks in the mean."""
    costs: Costs
    equal_compute: Array | None  # [labels] mean over tasks
    measures: dict[str, Measured]
    """By name, of `harness.stats.measures`."""
    classes: dict[str, ClassScores]  # by task
    further_splits: dict[str, tuple[Estimate, Estimate]]
    """Of `harness.report.sampled`."""
    noise_gains: dict[str, Estimate]
    """Share of flipped labels -> gain on those tasks."""
    flips_found: Array  # [labels] AUROC of the weights
    notes: list[str] = field(default_factory=list)

    @property
    def order(self) -> list[int]:
        """Strategies, best first; those with withheld averages last, in the study's order."""
        key = self.mean_score.value if self.baseline is None else self.gain.value
        return sorted(range(len(key)), key=lambda i: (np.isnan(key[i]), -np.nan_to_num(key[i]), i))

    @property
    def baseline_label(self) -> str | None:
        return None if self.baseline is None else self.selection.labels[self.baseline]

    @property
    def primary(self) -> list[Comparison]:
        """The declared family against plain KD."""
        return [one for one in self.comparisons if one is not None and self.in_primary(one.first)]

    def in_primary(self, label: int) -> bool:
        return self.selection.labels[label] in self.declared.primary

    def verdict(self, label: int) -> str:
        """In words; empty for what is in no declared family, or withheld."""
        found = self.comparisons[label]
        return found.words if found is not None else ""

    def significant(self, label: int, task: int) -> int:
        """1: better than plain KD on the task at the 5 % level after Holm, -1: worse, 0: no evidence, or not declared."""
        p = self.p_holm[label, task]
        return 0 if np.isnan(p) or p >= LEVEL else int(np.sign(self.difference[label, task]))


def make_leaderboard(path: Path | str, draws: int | None = None) -> Leaderboard:
    """Read a store and compute everything. Raises StoreError where there is nothing to report on.

    `draws`: of every bootstrap; left out, as many as the number of comparisons asks for.
    """
    selection = select(path)
    labels, tasks, scores = selection.labels, selection.tasks, selection.scores
    baseline = find_strategy(selection, BASELINE)
    alone = find_strategy(selection, STUDENT_ALONE)
    admission = admitted(selection, baseline)
    inside = admission.in_mean
    protocol = selection.manifest.get("study", {}).get("protocol", {})
    declared = families(ComparisonsSpec.model_validate(protocol.get("comparisons") or {}), selection.strategies)
    margin = float(protocol.get("margin", ProtocolSpec().margin))
    student = scores[alone].mean(-1) if alone is not None else np.full(len(tasks), np.nan)
    teacher = teacher_scores(selection)
    predictions = {task: load_predictions(selection, task, probabilities=True) for task in tasks}
    sampled, p_mcnemar = sample_tasks(selection, predictions, baseline, inside, draws or draws_for(len(labels) - 1))
    normalised = normalise(scores, student, teacher)
    usable = inside & np.isfinite(teacher - student) & (teacher - student >= LEAST_GAP)
    notes = [admission.said] if admission.said else []
    notes += reference_notes(selection, baseline, alone, usable | ~inside, teacher, student)
    nothing = np.full(len(labels), np.nan)
    mean_draws = np.stack([sampled.over_tasks(i) for i in range(len(labels))], axis=1)
    gain, weighted, improvement = Estimate.none(len(labels)), Estimate.none(len(labels)), nothing
    comparisons: list[Comparison | None] = [None] * len(labels)
    if baseline is not None:
        others = [i for i in range(len(labels)) if i != baseline]
        first = [i for i in others if labels[i] in declared.primary]
        for one in (
            *judge(sampled, [(i, baseline) for i in first], margin / 100),
            *explore(sampled, [(i, baseline) for i in others if i not in first], margin / 100),
        ):
            comparisons[one.first] = one
        if alike := sum(sampled.alike(i, baseline) for i in others):
            notes.append(
                f"{alike} of {len(others)} strategies were right on the very rows that {labels[baseline]} was, in every run: "
                "their intervals hold what so many rows can leave unseen (rule of three)."
            )
        if same := sum(sampled.one_student(i, baseline) for i in others):
            notes.append(f"{same} of {len(others)} strategies trained the students of {labels[baseline]}: same probabilities.")
        gain = Estimate(*(_column(comparisons, name) for name in ("value", "low", "high")))
        gain.value[baseline] = 0.0 * scores[baseline, inside].mean()  # withheld where it lacks a cell
        weights = sampled.precision_weights(baseline, others)
        if np.isfinite(weights).all():
            drawn = np.stack([sampled.over_tasks(i, baseline, weights) for i in range(len(labels))], axis=1)
            weighted = Estimate.of((scores - scores[baseline]).mean(-1) @ np.where(weights > 0, weights, 0.0), drawn)
        improvement = probability_of_improvement(scores[:, inside], scores[baseline, inside])
        improvement[baseline] = np.nan
    ranking, ranges = None, None
    if not selection.complete or np.isnan(scores).any():
        notes.append("Cells are missing: the averages of the strategies concerned and all ranks are withheld.")
    else:
        blocks = sampled.data_sets
        by_set = np.stack([scores[:, blocks == block].mean((1, 2)) for block in np.unique(blocks)], axis=1)
        ranking = rank_strategies(by_set) if by_set.shape[0] >= 3 and by_set.shape[1] >= 2 else None
        ranges = rank_ranges(scores[:, inside].mean((1, 2)), *sampled.variances)
    on_tasks = _OnTasks(sampled, labels, baseline, declared)
    missing = np.full((2, len(labels)), np.nan)
    intervals = np.stack([missing if sample is None else sample.intervals for sample in sampled.samples], axis=-1)
    return Leaderboard(
        selection=selection,
        baseline=baseline,
        student=student,
        teacher=teacher,
        task_mean=_mean_of_shown(selection),
        task_spread=scores.std(-1, ddof=1) if selection.repeats > 1 else np.full(scores.shape[:2], np.nan),
        task_low=intervals[0],
        task_high=intervals[1],
        difference=scores.mean(-1) - scores[baseline].mean(-1) if baseline is not None else np.full(scores.shape[:2], np.nan),
        difference_low=on_tasks.low,
        difference_high=on_tasks.high,
        p=on_tasks.p,
        p_holm=on_tasks.p_holm,
        p_mcnemar=p_mcnemar,
        detectable=on_tasks.detectable[0],
        detectable_corrected=on_tasks.detectable[1],
        admission=admission,
        mean_score=Estimate.of(mean(scores[:, inside]), mean_draws),
        normalised=mean(normalised[:, usable]) if usable.any() else nothing,
        iqm=interquartile_mean(normalised[:, usable]) if usable.any() else nothing,
        improvement=improvement,
        gain=gain,
        gain_weighted=weighted,
        declared=declared,
        margin=margin,
        comparisons=comparisons,
        controls=against_controls(sampled, labels, declared.controls, margin / 100),
        equal_rows=against_controls(sampled, labels, declared.equal_rows, margin / 100),
        test_draws=sampled.draws,
        units=len(sampled.units(0, 0)),
        normalised_scores=normalised,
        normalised_tasks=usable,
        wins=win_rates(scores),
        ranking=ranking,
        rank_ranges=ranges,
        costs=costs_of(selection, baseline),
        equal_compute=equal_compute_scores(selection, [task for task, used in zip(tasks, inside, strict=True) if used]),
        measures=measure(selection, predictions, baseline, inside, min(draws or DRAWS, DRAWS)),
        classes=scores_of_classes(selection, predictions),
        further_splits=further_splits(selection, baseline, min(draws or DRAWS, DRAWS)),
        noise_gains=gains_by_noise(sampled, selection, baseline),
        flips_found=flips_found(selection),
        notes=notes,
    )


class _OnTasks:
    """Differences to the baseline on single tasks; arrays [labels, tasks], NaN without a baseline."""

    def __init__(self, sampled: Sampled, labels: Sequence[str], baseline: int | None, declared: Families) -> None:
        tasks = sampled.tasks
        shape = (len(labels), len(tasks))
        self.low, self.high, self.p, self.p_holm = (np.full(shape, np.nan) for _ in range(4))
        self.detectable = np.full((2, len(tasks)), np.nan)
        family = [i for i, label in enumerate(labels) if label in declared.primary]
        if baseline is None:
            return
        seen = np.full((2, *shape), np.nan)
        for i in range(len(labels)):
            if i != baseline:
                found = sampled.on_tasks(i, baseline, LEVEL / max(len(family), 1))
                self.low[i], self.high[i], self.p[i], seen[0, i], seen[1, i] = found
        self.low[baseline] = self.high[baseline] = 0.0
        shown = family or [i for i in range(len(labels)) if i != baseline]
        for t in range(len(tasks)):
            self.p_holm[family, t] = holm(self.p[family, t])
            for k in range(2):
                effects = seen[k, shown, t]
                effects = effects[np.isfinite(effects) & (effects > 0)]
                self.detectable[k, t] = float(np.median(effects)) if len(effects) else np.nan


def _column(comparisons: list[Comparison | None], name: str) -> Array:
    return np.array([np.nan if one is None else getattr(one, name) for one in comparisons])


def _mean_of_shown(selection: Selection) -> Array:
    """Mean over the repeats that there are: a cell that lacks some is shown, marked, and enters no average."""
    shown = selection.shown_scores
    count = np.isfinite(shown).sum(-1)
    return np.where(count > 0, np.nansum(shown, -1) / np.maximum(count, 1), np.nan)
