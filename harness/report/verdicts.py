"""What a comparison found, in one of four verdicts: better, worse, equivalent within a margin, undecided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.report.sampled import Sampled
from harness.stats import LEVEL, smallest_p
from harness.stats.bootstrap import interval, two_sided_p
from harness.stats.equivalence import equivalence_p, share_outside
from harness.stats.multiple import holm, max_t
from harness.stats.power import minimum_detectable_effect

BETTER, WORSE, EQUIVALENT, UNDECIDED = "better", "worse", "equivalent", "undecided"


@dataclass(frozen=True)
class Comparison:
    """First minus second over tasks, fractions. NaN where a cell or predictions are missing."""

    first: int
    second: int
    value: float
    low: float
    high: float
    alone: float
    """p of this comparison by itself, by the interval's draws."""
    p: float
    """Corrected within its family: the larger of max-T over sign-flips of the runs and `alone`, for a finding has to hold over
    runs and over rows."""
    p_holm: float
    p_equivalent: float
    """That the two are not within the margin, corrected (Holm)."""
    detectable: float
    """True difference that four of five such studies would find, by this comparison alone."""
    detectable_corrected: float
    """The same at the level of the family's marks; infinite where there can be none."""
    repeats_needed: int | None
    """To show a difference of the margin in four of five studies; None: no number of repeats does, for want of rows."""
    verdict: str
    margin: float
    rests_on: str = ""
    """Task without which the verdict would not stand."""

    @property
    def word(self) -> str:
        """The verdict as every table says it; empty where there is none."""
        return f"{EQUIVALENT} within {100 * self.margin:g}" if self.verdict == EQUIVALENT else self.verdict

    @property
    def words(self) -> str:
        """With what it rests on, or what it would need."""
        if self.verdict == UNDECIDED:
            needed = "more rows" if self.repeats_needed is None else f"{self.repeats_needed} repeats"
            return f"{self.word} (would need {needed})"
        return self.word + (f" (rests on {self.rests_on})" if self.rests_on else "")


def judge(sampled: Sampled, pairs: Sequence[tuple[int, int]], margin: float) -> list[Comparison]:
    """A family of comparisons, (first, second) each, with correction and verdict. `margin` is a fraction."""
    if not pairs:
        return []
    found = _corrected(sampled, pairs, margin)
    decided = [i for i, one in enumerate(found) if one.verdict in (BETTER, WORSE)]
    for t in np.flatnonzero(sampled.in_mean) if decided and sampled.in_mean.sum() > 1 else ():
        rest = sampled.in_mean & (sampled.data_sets != sampled.data_sets[t])
        left = sampled.restricted(rest)
        if not rest.any() or smallest_p(len(left.units(*pairs[0]))) >= LEVEL:
            continue  # so few runs would show nothing, whatever they are
        runs = max_t(np.stack([left.units(*pair) for pair in pairs]), left.sets).p
        for i in (i for i in decided if not found[i].rests_on):
            if not max(runs[i], float(two_sided_p(left.over_tasks(*pairs[i])))) < LEVEL:
                found[i] = replace(found[i], rests_on=sampled.tasks[t])
    return found


def explore(sampled: Sampled, pairs: Sequence[tuple[int, int]], margin: float) -> list[Comparison]:
    """The same without correction and without a verdict."""
    nothing = float("nan")
    return [
        replace(one, verdict="", p=nothing, p_holm=nothing, p_equivalent=nothing, detectable_corrected=nothing)
        for one in (_corrected(sampled, [pair], margin)[0] for pair in pairs)
    ]


def _corrected(sampled: Sampled, pairs: Sequence[tuple[int, int]], margin: float) -> list[Comparison]:
    units = np.stack([sampled.units(*pair) for pair in pairs])
    runs = max_t(units, max(sampled.sets, 1))
    draws = [sampled.over_tasks(*pair) for pair in pairs]
    alone = np.array([float(two_sided_p(drawn)) for drawn in draws])
    single = np.maximum(runs.single, alone)  # NaN stays
    p, p_holm = np.maximum(runs.p, alone), holm(single)
    equivalent = holm(
        np.array([np.maximum(equivalence_p(u, margin), share_outside(d, margin)) for u, d in zip(units, draws, strict=True)])
    )
    level = runs.pointwise if np.isfinite(runs.pointwise) else LEVEL / len(pairs)
    found = []
    for i, (first, second) in enumerate(pairs):
        whole = bool(np.isfinite(draws[i]).all() and np.isfinite(units[i]).all() and len(units[i]))
        value = float(units[i].mean()) if whole else float("nan")
        low, high = (float(end) for end in interval(draws[i]))
        spread = sampled.spread(first, second)
        needed = spread.repeats_for(margin, level) if whole else None
        by_itself = float(minimum_detectable_effect(draws[i]))
        stated = max(spread.detectable(sampled.repeats, level), by_itself)  # which the draws say to a few per cent
        corrected = stated if np.isfinite(runs.pointwise) else float("inf")
        found.append(
            Comparison(
                first=first, second=second, value=value, low=low, high=high, alone=float(alone[i]), p=float(p[i]),
                p_holm=float(p_holm[i]), p_equivalent=float(equivalent[i]),
                detectable=by_itself, detectable_corrected=corrected,
                repeats_needed=None if needed is None else max(needed, sampled.repeats + 1),
                verdict=_verdict(value, float(p[i]), float(equivalent[i])) if whole else "", margin=margin,
            )
        )  # fmt: skip
    return found


def _verdict(value: float, p: float, p_equivalent: float) -> str:
    if p < LEVEL:
        return BETTER if value > 0 else WORSE
    return EQUIVALENT if p_equivalent < LEVEL else UNDECIDED


@dataclass(frozen=True)
class AgainstControls:
    """A label against all of its own controls that were run. It has to beat each of them: the intersection."""

    label: str
    controls: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    """One for each control."""

    @property
    def p(self) -> float:
        """Corrected within the family; NaN where one of the comparisons could not be made."""
        return max((one.p for one in self.comparisons), key=lambda p: (p != p, p))

    @property
    def verdict(self) -> str:
        """That of all comparisons where they agree, else undecided; empty where one has none."""
        verdicts = {one.verdict for one in self.comparisons}
        return verdicts.pop() if len(verdicts) == 1 else "" if "" in verdicts else UNDECIDED

    @property
    def words(self) -> str:
        """As in every table."""
        of_all = [one for one in self.comparisons if one.verdict == self.verdict]
        if self.verdict == UNDECIDED:  # what needs most
            most = max(of_all, key=lambda one: (one.repeats_needed is None, one.repeats_needed or 0), default=None)
            return most.words if most else UNDECIDED  # else decided, each in another way
        return (of_all[0].words if self.verdict == EQUIVALENT or len(of_all) == 1 else self.verdict) if of_all else ""


def against_controls(
    sampled: Sampled, labels: Sequence[str], declared: Mapping[str, Sequence[str]], margin: float
) -> list[AgainstControls]:
    """The control family, in the study's order. `declared`: label -> its controls; `margin` is a fraction."""
    places = {label: i for i, label in enumerate(labels)}
    pairs = [(places[label], places[control]) for label, controls in declared.items() for control in controls]
    judged = iter(judge(sampled, pairs, margin))
    return [
        AgainstControls(label, tuple(controls), tuple(next(judged) for _ in controls)) for label, controls in declared.items()
    ]
