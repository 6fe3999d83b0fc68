"""What a study compares, declared before it runs: its families of comparisons, and the margin below which all is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from harness.study.section import Section

BASELINE = "fixed_alpha"
"""Plain KD, tuned like everyone else."""
REFERENCES = ("ce_only", "kd_only", BASELINE, "random_weights")
"""Always run: without them a gain cannot be read."""
CONTROLS = ("shuffled", "batch_mean")
"""Wrappers that take the sample-wise information from a learned strategy's weights."""
EQUAL_ROWS = "fit_only"
"""Wrapper that keeps from a strategy the labels that others give up for a meta set."""
STATISTICS_VERSION = "3"
"""Of the rules by which tables are made; a trial's own protocol, by which it was trained, stays what it was."""

Kind = Literal["plain KD", "reference", "control", "strategy"]


class ComparisonsSpec(Section):
    """Families of comparisons. What is in none is explored, and carries no mark."""

    primary: list[str] | None = None
    """Strategies, as tables call them, that are compared with plain KD (`fixed_alpha`). Where not given: every one that is no
    reference and no control."""
    controls: list[str] | None = None
    """Strategies that are compared with their own `shuffled(...)` and `batch_mean(...)`, and have to beat both. Where not
    given: all that have one of them in the study."""
    equal_rows: list[str] = []
    """Strategies with a meta set that are compared with plain KD on as many labels: `fit_only(fixed_alpha)`, which the study
    runs, too."""


class ProtocolSpec(Section):
    version: Literal["1.1"] = "1.1"
    label_budget: Literal["equal_labels", "equal_fit"] = "equal_labels"
    """equal_labels: strategies that need no meta set train on fit + meta. equal_fit: nobody trains on meta."""
    comparisons: ComparisonsSpec = ComparisonsSpec()
    margin: float = Field(0.5, gt=0.0)
    """Points. Strategies that are shown to be closer than that are called equivalent."""


@dataclass(frozen=True)
class Families:
    """Comparisons by label."""

    primary: tuple[str, ...]
    """Each against plain KD."""
    controls: Mapping[str, tuple[str, ...]]
    """Label -> its own controls."""
    equal_rows: Mapping[str, tuple[str]]
    """Label -> plain KD without the meta rows."""


def kind_of_strategy(strategy: str) -> Kind:
    """By registered name, wrappers included."""
    if strategy == BASELINE:
        return "plain KD"
    if strategy in REFERENCES:
        return "reference"
    return "control" if strategy.partition("(")[0] in (*CONTROLS, EQUAL_ROWS) else "strategy"


def families(comparisons: ComparisonsSpec, strategies: Mapping[str, str]) -> Families:
    """Of the labels of a study: label -> registered name, in the study's order. Declared labels that it lacks are left out."""
    own = [label for label, strategy in strategies.items() if kind_of_strategy(strategy) == "strategy"]
    primary = own if comparisons.primary is None else [label for label in comparisons.primary if label in strategies]
    asked = own if comparisons.controls is None else [label for label in comparisons.controls if label in strategies]
    controls = {label: found for label in asked if (found := _controls_of(label, strategies))}
    without = next((label for label, name in strategies.items() if name == f"{EQUAL_ROWS}({BASELINE})"), None)
    equal_rows = {label: (without,) for label in comparisons.equal_rows if without is not None and label in strategies}
    return Families(tuple(primary), controls, equal_rows)


def _controls_of(label: str, strategies: Mapping[str, str]) -> tuple[str, ...]:
    """One of each kind: that of the label's own name, else the first of its strategy."""
    found = []
    for wrapper in CONTROLS:
        of_strategy = [other for other, name in strategies.items() if name == f"{wrapper}({strategies[label]})"]
        of_label = [other for other in of_strategy if other == f"{wrapper}({label})"]
        found += (of_label or of_strategy)[:1]
    return tuple(found)
