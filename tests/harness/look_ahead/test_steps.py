"""When the meta gradient is taken: before the training pass where that is right, and never with another result."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.conformance import tiny_training
from harness.conformance.tiny_training import BATCH, STEPS, Trace, World
from harness.look_ahead.look_ahead import LookAhead
from harness.look_ahead.steps import LookAheadSteps
from strategies import resolve

NEVER_TAKEN = {"shortest_look_ahead": 1.0}
"""Longer than any step of this training."""


def train(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> tuple[Trace, list[str]]:
    """What rw_kd did, and what happened in which order: `meta gradient`, `training pass`."""
    events: list[str] = []
    gradient, training_pass = LookAhead._meta_gradient, tiny_training.run_batch

    def noted_gradient(self: LookAhead, *given: Any) -> Any:
        events.append("meta gradient")
        return gradient(self, *given)

    def noted_pass(*given: Any) -> Any:
        events.append("training pass")
        return training_pass(*given)

    registered = resolve("rw_kd")
    checked = registered.settings(settings)
    place = World(registered.needs(checked), 1)
    with monkeypatch.context() as patch:
        patch.setattr(LookAhead, "_meta_gradient", noted_gradient)
        patch.setattr(tiny_training, "run_batch", noted_pass)
        return place.run(lambda: registered.create(checked, place.setup)), events


def without_preparing(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> Trace:
    with monkeypatch.context() as patch:
        patch.setattr(LookAheadSteps, "_prepare", lambda self: None)
        return train(patch, settings)[0]


def assert_same_weights(found: Trace, expected: Trace) -> None:
    for ours, theirs in zip(found.weights, expected.weights, strict=True):
        for name, weight in ours.items():
            assert torch.equal(weight, theirs[name])


@pytest.mark.parametrize("further", [{}, {"precondition": "adam"}, {"meta_kd_weight": 1.0, "look_ahead_layers": 1}])
def test_no_graph_of_the_training_pass_stands_beside_the_meta_gradients(
    monkeypatch: pytest.MonkeyPatch, further: dict[str, Any]
) -> None:
    settings = {**NEVER_TAKEN, **further}
    found, events = train(monkeypatch, settings)
    assert events == ["meta gradient", "training pass"] * STEPS
    expected = without_preparing(monkeypatch, settings)
    assert_same_weights(found, expected)
    assert (found.forward, found.backward) == (expected.forward, expected.backward)


@pytest.mark.parametrize("interval", [2, 3])
def test_a_pass_for_nothing_happens_once_where_not_every_step_asks(monkeypatch: pytest.MonkeyPatch, interval: int) -> None:
    settings = {**NEVER_TAKEN, "interval": interval}
    found, events = train(monkeypatch, settings)
    assert events[:4] == ["meta gradient", "training pass"] * 2
    assert events.count("meta gradient") == -(-STEPS // interval) + 1
    expected = without_preparing(monkeypatch, settings)
    assert_same_weights(found, expected)
    assert found.backward == expected.backward + BATCH


def test_nothing_is_prepared_where_the_student_s_step_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    found, events = train(monkeypatch, {"shortest_look_ahead": 0.0})
    assert events == ["training pass", "meta gradient"] * STEPS
    expected = without_preparing(monkeypatch, {"shortest_look_ahead": 0.0})
    assert_same_weights(found, expected)
    assert (found.forward, found.backward) == (expected.forward, expected.backward)


def test_a_step_that_is_taken_all_the_same_costs_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights above 1: what looked too short to be taken is not."""
    settings = {"shortest_look_ahead": 0.01, "look_ahead_rate": 0.1}
    found, _ = train(monkeypatch, settings)
    expected = without_preparing(monkeypatch, settings)
    assert_same_weights(found, expected)
    assert found.backward == expected.backward + BATCH
