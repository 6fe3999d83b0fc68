"""Names of what a teacher's cache can hold beside its logits. No torch: plans use them.

Each is one array `train_<name>.npy`, row by row as `train_ids.npy`.
"""

from __future__ import annotations

import re

FEATURES = "features"
"""Pooled vectors, [rows, hidden] float32."""
LAYERS = "layers"
"""Hidden state of the token that the classifier reads, after each layer, [rows, layers, hidden] float16."""
PARTS = "parts"
"""Logits on each part of the input alone (`harness.data.parts`), [rows, parts, classes] float32."""
NUMBER_OF_PARTS = 2


def dropout_draws(rate: float, draws: int) -> str:
    """Logits with the teacher's dropout on, at `rate`, [rows, draws, classes] float32."""
    return f"dropout_{rate:g}_{draws}"


def parse_draws(name: str) -> tuple[float, int] | None:
    """Rate and number of draws of such a name; None for another one."""
    found = re.fullmatch(r"dropout_([0-9.e+-]+)_(\d+)", name)
    return None if found is None else (float(found[1]), int(found[2]))


def teacher_passes_per_row(name: str) -> int:
    """Forward passes of the teacher that the array costs, once, for each row."""
    if name == PARTS:
        return NUMBER_OF_PARTS
    draws = parse_draws(name)
    return 1 if draws is None else draws[1]
