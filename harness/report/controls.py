"""What a learned strategy is worth beside its own controls: its weights on the wrong samples, one weight for the batch."""

from __future__ import annotations

from dataclasses import dataclass

from harness.report.selection import Selection
from harness.stats.bootstrap import interval, two_sided_p
from harness.stats.metrics import Array

WRAPPERS = ("shuffled", "batch_mean")


@dataclass(frozen=True)
class AgainstControl:
    """A label minus its control, mean over tasks, a fraction."""

    label: str
    control: str
    value: float
    low: float
    high: float
    p: float
    """Not adjusted. NaN, as the interval, where predictions are missing."""


def against_controls(selection: Selection, means: Array) -> list[AgainstControl]:
    """Every label whose control was run beside it, in the study's order.

    `means`: [draws, labels], the bootstrap's means over tasks; two labels of one draw saw the same examples.
    """
    strategies, labels = selection.strategies, selection.labels
    scores = selection.scores.mean((1, 2))
    found = []
    for first, label in enumerate(labels):
        for wrapper in WRAPPERS:
            of_strategy = [i for i, other in enumerate(labels) if strategies[other] == f"{wrapper}({strategies[label]})"]
            of_label = [i for i in of_strategy if labels[i] == f"{wrapper}({label})"]
            for second in (of_label or of_strategy)[:1]:
                drawn = means[:, first] - means[:, second]
                low, high = (float(end) for end in interval(drawn))
                value = float(scores[first] - scores[second])
                found.append(AgainstControl(label, labels[second], value, low, high, float(two_sided_p(drawn))))
    return found
