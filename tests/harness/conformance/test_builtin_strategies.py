"""Every built-in strategy, and every wrapper, passes every conformance check."""

from __future__ import annotations

import pytest

from harness.conformance import check
from strategies import resolve, strategy_names, wrapper_names
from strategies.base import Cost
from tests.conftest import first_of_each


def built_in() -> list[str]:
    """By declared cost: the first of a family is one of its cheapest."""
    own = [name for name in strategy_names() if resolve(name).strategy.__module__.startswith("strategies.")]
    own.sort(key=lambda name: list(Cost).index(resolve(name).strategy.cost))
    return own + [f"{wrapper}({inner})" for wrapper in wrapper_names() for inner in ("wsl", "rw_kd")]


@pytest.mark.parametrize("name", first_of_each({name: resolve(name).strategy.family for name in built_in()}))
def test_conforms(name):
    report = check(name)
    assert report.passed, str(report)
