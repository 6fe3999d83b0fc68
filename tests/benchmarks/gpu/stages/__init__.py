"""The stages: each a module with `run(found, bench)`, in a process of its own with a limit."""

from __future__ import annotations

ALONE = {
    "environment": 40,
    "fidelity": 75,
    "steps": 120,
    "waits": 40,
    "shapes": 60,
    "ranks": 75,
    "throughput": 60,
    "graphs": 80,
    "teacher_outputs": 50,
    "packed": 110,
}
"""One after another, as what they measure is time. Name -> limit in seconds."""

TOGETHER = {"checks": 150, "study": 150, "ray_study": 150}
"""At the same time, last: only their results count."""

LIMITS = {**ALONE, **TOGETHER}
