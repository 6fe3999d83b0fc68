"""Strategies, with settings, whose steps are measured."""

from __future__ import annotations

from typing import Any

VARIANTS: list[tuple[str, dict[str, Any], str]] = [
    ("fixed_alpha", {}, "plain KD"),
    ("rw_kd", {}, "rw_kd, auto"),
    ("rw_kd", {"engine": "fd"}, "rw_kd, fd"),
    ("rw_kd", {"engine": "jvp"}, "rw_kd, jvp"),
    ("rw_kd", {"engine": "exact"}, "rw_kd, exact"),
    ("rw_kd", {"look_ahead_layers": 1}, "rw_kd, 1 layer"),
    ("rw_kd", {"look_ahead_layers": 1, "engine": "fd"}, "rw_kd, 1 layer, fd"),
    ("rw_kd", {"precondition": "adam"}, "rw_kd, adam"),
    ("wsl", {}, "wsl"),
]
