"""Every built-in strategy, and every wrapper, passes every conformance check."""

from __future__ import annotations

from typing import Any

import pytest

from harness.conformance import check
from strategies import resolve, strategy_names, wrapper_names


def built_in() -> list[str]:
    own = [name for name in strategy_names() if resolve(name).strategy.__module__.startswith("strategies.")]
    return own + [f"{wrapper}({inner})" for wrapper in wrapper_names() for inner in ("wsl", "rw_kd")]


def one_of_each_family() -> list[Any]:
    """A check takes seconds: the first of each family is fast, the others are slow."""
    seen: set[str] = set()
    params = []
    for name in built_in():
        family = resolve(name).strategy.family
        params.append(pytest.param(name, marks=pytest.mark.slow if family in seen else ()))
        seen.add(family)
    return params


@pytest.mark.parametrize("name", one_of_each_family())
def test_conforms(name):
    report = check(name)
    assert report.passed, str(report)
