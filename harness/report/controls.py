"""What a learned strategy is worth beside its own controls: its weights on the wrong samples, one weight for the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.report.sampled import Sampled
from harness.report.verdicts import EQUIVALENT, UNDECIDED, Comparison, judge


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
            return max(of_all, key=lambda one: (one.repeats_needed is None, one.repeats_needed or 0)).words
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
